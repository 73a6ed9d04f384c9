"""What a sample is, and the pieces that samples are made of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16)

# The difference between a kernel and the reference that rounding explains: some units in the last
# place of a float32 result, one of a narrow one; and of the largest number that was summed.
RTOL = {torch.float32: 2e-5, torch.float16: 1e-3, torch.bfloat16: 8e-3}
ATOL = {torch.float32: 2e-6, torch.float16: 2e-6, torch.bfloat16: 2e-6}


@dataclass
class Sample:
    """Arguments of one valid call."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any] = field(default_factory=dict)
    name: str = ""

    def copy(self) -> Sample:
        """The same call on memory of its own: views stay views, of copied storage."""
        args = tuple(_copy(a) for a in self.args)
        return Sample(args, {k: _copy(v) for k, v in self.kwargs.items()}, self.name)


@dataclass
class BadSample:
    """Arguments that must be refused with a message that `match` is found in.

    on_meta: whether the shapes and dtypes alone show it (a fake tensor can be refused too).
    """

    args: tuple[Any, ...]
    match: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    on_meta: bool = True


Samples = dict[str, Callable[[], Iterator[Sample]]]
BadSamples = dict[str, Callable[[], Iterator[BadSample]]]


def _copy(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    storage = value.untyped_storage().clone()
    out = torch.empty(0, dtype=value.dtype)
    return out.set_(storage, value.storage_offset(), value.shape, value.stride())


def randn(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape).to(dtype)


def strided(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A view whose rows are apart: columns of a wider tensor."""
    return randn(*shape[:-1], shape[-1] + 5, dtype=dtype)[..., 2:-3]


def permuted(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A view with its dimensions in memory the other way round."""
    return randn(*reversed(shape), dtype=dtype).permute(*reversed(range(len(shape))))


def on_meta(value: Any) -> Any:
    """A tensor without memory in the place of every tensor, with the same strides."""
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
