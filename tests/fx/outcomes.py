"""Runs a graph and compares all that a caller can see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx


@dataclass
class Case:
    """A graph with what it needs to run, and examples of its inputs with symbolic shapes."""

    gm: fx.GraphModule
    make_inputs: Callable[[], list[torch.Tensor]]
    symbolic: list[Any] | None = None

    def examples(self) -> list[Any]:
        return self.make_inputs() if self.symbolic is None else self.symbolic


@dataclass
class Outcome:
    """All that a caller can see of a run."""

    outputs: list[Any]
    inputs: list[torch.Tensor]
    attributes: dict[str, torch.Tensor]
    random_state: torch.Tensor
    overlaps: list[tuple[int, int]]


def run(
    case: Case,
    gm: fx.GraphModule,
    execute: Callable[..., Any] = lambda gm, *inputs: gm(*inputs),
) -> Outcome:
    """Runs a copy of `gm` on fresh inputs under a fixed seed."""
    gm = copy.deepcopy(gm)
    torch.manual_seed(3)
    inputs = case.make_inputs()
    torch.manual_seed(4)
    with torch.no_grad():
        outputs = list(execute(gm, *inputs))
    seen = [t for t in [*outputs, *inputs] if isinstance(t, torch.Tensor)]
    pointers = [t.untyped_storage().data_ptr() for t in seen]
    pairs = [
        (i, j)
        for i in range(len(seen))
        for j in range(i)
        if pointers[i] == pointers[j] and seen[i].numel() and seen[j].numel()
    ]
    attributes = dict(gm.named_buffers(remove_duplicate=False)) | dict(
        gm.named_parameters(remove_duplicate=False)
    )
    return Outcome(outputs, inputs, attributes, torch.get_rng_state(), pairs)


def same_tensor(a: Any, b: Any) -> bool:
    if not isinstance(a, torch.Tensor):
        return type(a) is type(b) and bool(a == b)
    return (
        a.dtype == b.dtype
        and a.shape == b.shape
        and a.stride() == b.stride()
        and torch.equal(_bytes(a), _bytes(b))
    )


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().view(-1).view(torch.uint8)


def close_tensor(a: Any, b: Any) -> bool:
    """As `same_tensor`, but for rounding."""
    if not isinstance(a, torch.Tensor):
        return type(a) is type(b) and bool(a == b)
    alike = a.dtype == b.dtype and a.shape == b.shape and a.stride() == b.stride()
    return alike and torch.allclose(a, b, rtol=1e-3, atol=1e-3, equal_nan=True)


def assert_same(
    want: Outcome, got: Outcome, same: Callable[[Any, Any], bool] = same_tensor
) -> None:
    """Values, dtypes, strides, mutations, random stream and sharing of memory, to the bit."""
    assert len(want.outputs) == len(got.outputs)
    assert all(map(same, want.outputs, got.outputs)), "outputs differ"
    assert all(map(same, want.inputs, got.inputs)), "inputs were changed differently"
    for name, value in got.attributes.items():
        if name in want.attributes:  # a pass may add stacked and packed weights
            assert same(want.attributes[name], value), name
    assert torch.equal(want.random_state, got.random_state), "the random stream differs"
    assert want.overlaps == got.overlaps, "other tensors share memory"
