"""Argument checks that several ops share. Each names the argument, what it got, what it needs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from ..quant_types import QUANT_TYPES, QuantType
from .reference.quants.registry import FORMATS
from .registry import check

FLOATS = (torch.float32, torch.float16, torch.bfloat16)
INTS = (torch.int64, torch.int32)


def dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def check_dtype(op: str, name: str, tensor: torch.Tensor, allowed: Sequence[torch.dtype]) -> None:
    check(
        tensor.dtype in allowed,
        op,
        f"{name} must be {' or '.join(map(dtype_name, allowed))}, got {dtype_name(tensor.dtype)}",
    )


def check_device(op: str, name: str, tensor: torch.Tensor, other: torch.Tensor, of: str) -> None:
    check(
        tensor.device == other.device,
        op,
        f"{name} is on {tensor.device} but {of} is on {other.device}; they must be on one device",
    )


def check_shape(op: str, name: str, tensor: torch.Tensor, shape: Sequence[int]) -> None:
    same = tensor.dim() == len(shape) and all(
        a == b for a, b in zip(tensor.shape, shape, strict=True)
    )
    check(same, op, f"{name} must have shape {list(shape)}, got {list(tensor.shape)}")


def check_dim(op: str, name: str, tensor: torch.Tensor, least: int) -> None:
    check(
        tensor.dim() >= least,
        op,
        f"{name} must have at least {least} dimension(s), got shape {list(tensor.shape)}",
    )


def check_qweight(op: str, qweight: torch.Tensor, qtype: int, dim: int | None = None) -> int:
    """Check a tensor of blocks; returns the number of elements in a row."""
    row = known_type(op, qtype)
    check_dtype(op, "qweight", qweight, (torch.uint8,))
    if dim is None:
        check_dim(op, "qweight", qweight, 1)
    else:
        check(
            qweight.dim() == dim,
            op,
            f"qweight must have {dim} dimensions [rows, row_bytes], got {list(qweight.shape)}",
        )
    num_bytes = qweight.shape[-1]
    check(
        num_bytes % row.block_bytes == 0,
        op,
        f"qweight rows must be a multiple of {row.block_bytes} bytes (one {row.name} block of "
        f"{row.block_size} elements), got {num_bytes}",
    )
    check(
        num_bytes <= row.block_bytes or qweight.stride(-1) == 1,
        op,
        "qweight rows must be contiguous: stride 1 in the last dimension, "
        f"got {qweight.stride(-1)}",
    )
    return num_bytes // row.block_bytes * row.block_size


def known_type(op: str, qtype: int) -> QuantType:
    check(qtype in FORMATS, op, f"qtype {qtype} is not a GGML type of floating point values")
    return QUANT_TYPES[qtype]
