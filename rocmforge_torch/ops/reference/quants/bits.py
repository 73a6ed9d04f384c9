"""Reading numbers of other widths out of rows of bytes."""

from __future__ import annotations

import torch
from torch import Tensor


def view_as(data: Tensor, dtype: torch.dtype) -> Tensor:
    """Little-endian numbers of `dtype` in uint8 ``[n, bytes]``, whatever its alignment."""
    return data.clone(memory_format=torch.contiguous_format).view(dtype)


def half(data: Tensor) -> Tensor:
    """float16 numbers in uint8 ``[n, 2 m]`` as float32 ``[n, m]``."""
    return view_as(data, torch.float16).float()


def unsigned16(data: Tensor) -> Tensor:
    """16-bit numbers in uint8 ``[n, 2 m]`` as int32 ``[n, m]``."""
    return view_as(data, torch.int16).int() & 0xFFFF


def fields(data: Tensor, bits: int, count: int, step: int | None = None) -> Tensor:
    """Split integers ``[..., m]`` into `count` bit fields ``[..., count, m]``, lowest first.

    Field ``i`` is `bits` wide and starts at bit ``i * step`` (`step` defaults to `bits`).
    """
    step = step or bits
    shifts = torch.arange(0, count * step, step, dtype=data.dtype, device=data.device)
    return (data.unsqueeze(-2) >> shifts.unsqueeze(-1)) & ((1 << bits) - 1)


def split_fields(data: Tensor, bits: int, count: int, step: int | None = None) -> Tensor:
    """Like `fields`, but the fields of one integer stay together: ``[..., m, count]``."""
    return fields(data.unsqueeze(-1), bits, count, step).squeeze(-1)


def half_bytes(values: Tensor) -> Tensor:
    """float32 ``[n, m]`` as the bytes of float16 numbers, uint8 ``[n, 2 m]``."""
    return values.half().contiguous().view(torch.uint8)


def pack(codes: Tensor, bits: int) -> Tensor:
    """The inverse of `fields`: integers ``[..., count, m]`` to uint8 ``[..., m]``."""
    parts = codes.to(torch.uint8).unbind(-2)
    packed = parts[0].clone()
    for i, part in enumerate(parts[1:], start=1):
        packed |= part << (bits * i)
    return packed


def pack_split(codes: Tensor, bits: int) -> Tensor:
    """The inverse of `split_fields`: integers ``[..., m, count]`` to uint8 ``[..., m]``."""
    return pack(codes.unsqueeze(-1), bits).squeeze(-1)
