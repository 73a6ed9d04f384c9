"""How far the tensors of two GGUF files are apart, one tensor after the other."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ..gguf import GGUFModelFile
from ..gguf.lazy_tensor import LazyTensor, lazy_tensors


@dataclass(frozen=True)
class TensorError:
    """The difference of a tensor in file b from the one in file a.

    Attributes:
        name: its name.
        first, second: its types in a and in b.
        shape: its size in elements, slowest dimension first.
        rmse: root of the mean squared difference.
        relative: rmse over the root of a's mean square; 0 where both are, infinite where only a's
            is.
        largest: the largest absolute difference.
    """

    name: str
    first: str
    second: str
    shape: tuple[int, ...]
    rmse: float
    relative: float
    largest: float


def tensor_errors(a: GGUFModelFile, b: GGUFModelFile) -> Iterator[TensorError]:
    """The tensors that both files have, in a's order.

    Some rows at a time are expanded to float32 (16 MiB of each file); sums are in float64.

    Raises:
        ValueError: a tensor has another shape in b.
    """
    others = {tensor.name: tensor for tensor in lazy_tensors(b)}
    for tensor in lazy_tensors(a):
        if tensor.name in others:
            yield _error(tensor, others[tensor.name])


def only_in_one(a: GGUFModelFile, b: GGUFModelFile) -> tuple[list[str], list[str]]:
    """Names of tensors in a alone, and in b alone."""
    return (
        [name for name in a.tensors if name not in b.tensors],
        [name for name in b.tensors if name not in a.tensors],
    )


def _error(a: LazyTensor, b: LazyTensor) -> TensorError:
    if a.shape != b.shape:
        raise ValueError(
            f"tensor {a.name!r} has shape {list(a.shape)} in one file and {list(b.shape)} in the "
            "other: they are no versions of one model"
        )
    squares = errors = largest = 0.0
    for (_, first), (_, second) in zip(a.rows(), b.rows(), strict=True):
        wide = first.double()
        difference = wide - second.double()
        squares += wide.square().sum().item()
        errors += difference.square().sum().item()
        largest = max(largest, difference.abs().max().item())
    relative = math.sqrt(errors / squares) if squares else math.inf if errors else 0.0
    rmse = math.sqrt(errors / a.elements)
    return TensorError(a.name, a.qtype.name, b.qtype.name, a.shape, rmse, relative, largest)
