"""What a planned graph calls at run time: a check of its inputs, and its arena."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.library import Library

from rocmforge_torch.allocator import current_allocator

_LIBRARY = Library("rocmforge_fx", "DEF")
_LIBRARY.define("arena(int nbytes, Device device) -> Tensor")


def _arena(nbytes: int, device: torch.device) -> Tensor:
    return current_allocator().empty((nbytes,), torch.uint8, device, name="arena of a memory plan")


def _fake_arena(nbytes: int, device: torch.device) -> Tensor:
    return torch.empty(nbytes, dtype=torch.uint8, device=device)


_LIBRARY.impl("arena", _arena, "CompositeExplicitAutograd")
torch.library.register_fake("rocmforge_fx::arena", _fake_arena, lib=_LIBRARY)

# uint8 [nbytes] from the current allocator, 512-byte aligned.
arena = torch.ops.rocmforge_fx.arena.default


def expectation(value: Any) -> Any:
    """What `check_inputs` holds an input to; None where any will do. A symbolic size or stride
    may be any."""
    if isinstance(value, Tensor):
        sizes = tuple(n if type(n) is int else None for n in value.shape)
        strides = tuple(n if type(n) is int else None for n in value.stride())
        return value.dtype, value.device, sizes, strides
    return value if type(value) in (bool, int, float) else None


def check_inputs(inputs: Sequence[Any], expected: Sequence[Any], trainable: bool) -> None:
    """Holds the inputs of a planned graph to what the plan was made for.

    Raises:
        ValueError: another dtype, device, shape or memory layout, or another number.
        RuntimeError: a gradient would have to flow through the plan's buffers.
    """
    for number, (value, want) in enumerate(zip(inputs, expected, strict=True)):
        if want is not None and not _fits(value, want):
            got = expectation(value) if isinstance(value, (Tensor, bool, int, float)) else value
            raise ValueError(
                f"this graph has a memory plan for input {number} like {_words(want)}, got "
                f"{_words(got)}: optimize again with it as an example, or without the plan"
            )
    needs_grad = trainable or any(isinstance(v, Tensor) and v.requires_grad for v in inputs)
    if needs_grad and torch.is_grad_enabled():
        raise RuntimeError(
            "a graph with a memory plan has no gradient: call it under torch.no_grad(), or optimize"
            " without the plan"
        )


def _fits(value: Any, want: Any) -> bool:
    if not isinstance(want, tuple):
        return type(value) is type(want) and bool(value == want)
    if not isinstance(value, Tensor):
        return False
    dtype, device, sizes, strides = want
    if (value.dtype, value.device, value.dim()) != (dtype, device, len(sizes)):
        return False
    if value.shape == sizes and value.stride() == strides:  # nearly always
        return True
    return all(
        size in (None, n) and (n <= 1 or stride in (None, m))
        for n, m, size, stride in zip(value.shape, value.stride(), sizes, strides, strict=True)
    )


def _words(want: Any) -> str:
    if not isinstance(want, tuple):
        return repr(want)
    dtype, device, sizes, strides = want
    shape, apart = (
        "[" + ", ".join("any" if n is None else str(n) for n in numbers) + "]"
        for numbers in (sizes, strides)
    )
    return f"{str(dtype).removeprefix('torch.')} {shape} with strides {apart} on {device}"
