"""The overload `out` of every op that returns new tensors, derived from the op itself.

`torch.ops.rocmforge.OP.out(arguments, out=tensor)` leaves the result in a tensor of the caller's
and returns it; `add_rms_norm` has `out0` and `out1`. Where there is no kernel for it, the op runs
and its result is copied. So does functionalization, and a compiled graph holds the op itself.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .checks import check_dtype, check_shape
from .registry import FALLBACKS, LIBRARY, NAMESPACE, OPS, SHAPES, check

ALIGNMENT = 16  # bytes; kernels write as many at once
OUTS: dict[str, str] = {}  # name of an op -> schema of its overload `out`


def out_schema(schema: str) -> str | None:
    """Schema of the overload `out` of an op; None where the op returns no new tensors."""
    parsed = torch._C.parse_schema(schema)
    if parsed.is_mutable or not parsed.returns:
        return None
    head, _, _ = schema.rpartition(") -> ")
    single = len(parsed.returns) == 1
    letters = [f"Tensor({chr(ord('a') + i)}!)" for i in range(len(parsed.returns))]
    names = ["out"] if single else [f"out{i}" for i in range(len(letters))]
    outs = ", ".join(f"{letter} {name}" for letter, name in zip(letters, names, strict=True))
    returns = letters[0] if single else f"({', '.join(letters)})"
    return f"{head.replace('(', '.out(', 1)}, *, {outs}) -> {returns}"


def check_out(op: str, name: str, out: Tensor, result: Tensor) -> None:
    """Check that `out`, argument `name`, can hold what has the form of `result`."""
    check_dtype(op, name, out, (result.dtype,))
    check_shape(op, name, out, result.shape)
    check(
        out.device == result.device,
        op,
        f"{name} must be on {result.device} as the arguments are, got {out.device}",
    )
    check(out.is_contiguous(), op, f"{name} must be contiguous, got strides {list(out.stride())}")


def check_memory(op: str, outs: dict[str, Tensor], arguments: list[Any]) -> None:
    """Check that the `outs` lie apart from the arguments and each other, and where they start."""
    others = [argument for argument in arguments if isinstance(argument, Tensor)]
    for name, out in outs.items():
        check(
            not any(_share_memory(out, other) for other in others),
            op,
            f"{name} shares memory with an argument or with another result",
        )
        past = out.data_ptr() % ALIGNMENT
        check(
            past == 0, op, f"{name} must start at a multiple of {ALIGNMENT} bytes, got {past} more"
        )
        others.append(out)


def _share_memory(a: Tensor, b: Tensor) -> bool:
    """Whether the bytes from a's first to its last element overlap b's."""
    if a.numel() == 0 or b.numel() == 0:
        return False
    return a.data_ptr() < _end(b) and b.data_ptr() < _end(a)


def _end(t: Tensor) -> int:
    last = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True))
    return t.data_ptr() + (last + 1) * t.element_size()


def _define_out(name: str, schema: str) -> None:
    OUTS[name] = schema
    LIBRARY.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    packet = getattr(torch.ops.rocmforge, name)
    names = [a.name for a in packet.out._schema.arguments if a.alias_info is not None]

    def split(kwargs: dict[str, Any]) -> tuple[dict[str, Tensor], dict[str, Any]]:
        rest = {key: value for key, value in kwargs.items() if key not in names}
        return {key: kwargs[key] for key in names}, rest

    def fake(*args: Any, **kwargs: Any) -> Any:
        outs, rest = split(kwargs)
        results = _as_tuple(SHAPES[name](*args, **rest))
        for (key, out), result in zip(outs.items(), results, strict=True):
            check_out(name, key, out, result)
        return next(iter(outs.values())) if len(outs) == 1 else tuple(outs.values())

    def compute_and_copy(*args: Any, **kwargs: Any) -> Any:
        given = fake(*args, **kwargs)
        outs, rest = split(kwargs)
        results = _as_tuple(packet.default(*args, **rest))
        for out, result in zip(outs.values(), results, strict=True):
            out.copy_(result)
        return given

    def fallback(*args: Any, **kwargs: Any) -> Any:
        fake(*args, **kwargs)
        outs, rest = split(kwargs)
        check_memory(name, outs, [*args, *rest.values()])
        return compute_and_copy(*args, **kwargs)

    overload = f"{name}.out"
    torch.library.register_fake(f"{NAMESPACE}::{overload}", fake, lib=LIBRARY)
    FALLBACKS[overload] = fallback
    LIBRARY.impl(overload, fallback, "CompositeExplicitAutograd")
    LIBRARY.impl(overload, compute_and_copy, "Functionalize")


def _as_tuple(results: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)


for _name, _schema in OPS.items():
    if (_out_schema := out_schema(_schema)) is not None:
        _define_out(_name, _out_schema)
