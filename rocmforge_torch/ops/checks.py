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
    names = " or ".join(dict.fromkeys(map(dtype_name, allowed)))
    check(tensor.dtype in allowed, op, f"{name} must be {names}, got {dtype_name(tensor.dtype)}")


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


def check_weight(
    op: str,
    name: str,
    weight: torch.Tensor,
    x: torch.Tensor,
    dtypes: Sequence[torch.dtype],
    of: str = "x",
) -> None:
    """Check the weight of a norm over the last dimension of x, argument `of`."""
    check_shape(op, name, weight, [x.shape[-1]])
    check_dtype(op, name, weight, dtypes)
    check_device(op, name, weight, x, of)


def check_out_dtype(op: str, dtype: torch.dtype) -> None:
    """Check the dtype of a result."""
    names = " or ".join(map(dtype_name, FLOATS))
    check(dtype in FLOATS, op, f"dtype must be {names}, got {dtype_name(dtype)}")


def check_qweight(
    op: str, qweight: torch.Tensor, qtype: int, dim: int | None = None, name: str = "qweight"
) -> int:
    """Check a tensor of blocks, argument `name`; returns the number of elements in a row."""
    row = known_type(op, qtype)
    check_dtype(op, name, qweight, (torch.uint8,))
    if dim is None:
        check_dim(op, name, qweight, 1)
    else:
        check(
            qweight.dim() == dim,
            op,
            f"{name} must have {dim} dimensions [rows, row_bytes], got {list(qweight.shape)}",
        )
    num_bytes = qweight.shape[-1]
    check(
        num_bytes % row.block_bytes == 0,
        op,
        f"{name} rows must be a multiple of {row.block_bytes} bytes (one {row.name} block of "
        f"{row.block_size} elements), got {num_bytes}",
    )
    check(
        num_bytes <= row.block_bytes or qweight.stride(-1) == 1,
        op,
        f"{name} rows must be contiguous: stride 1 in the last dimension, got {qweight.stride(-1)}",
    )
    return num_bytes // row.block_bytes * row.block_size


def check_product(
    op: str,
    x: torch.Tensor,
    qweight: torch.Tensor,
    qtype: int,
    bias: torch.Tensor | None,
    layout: int,
    name: str = "qweight",
) -> None:
    """Check the arguments of a product of x with the rows of `qweight`, argument `name`."""
    k = check_qweight(op, qweight, qtype, dim=2, name=name)
    check_dtype(op, "x", x, FLOATS)
    check_dim(op, "x", x, 1)
    check_device(op, name, qweight, x, "x")
    check(
        x.shape[-1] == k,
        op,
        f"x has {x.shape[-1]} features but a row of {name} holds {k} elements",
    )
    check(
        layout in (0, 1),
        op,
        f"layout must be 0 (blocks as the file has them) or 1 (packed), got {layout}",
    )
    check(
        layout == 0 or qweight.is_contiguous(),
        op,
        f"{name} must be contiguous in layout 1, as pack_weight returns it",
    )
    if bias is not None:
        check_shape(op, "bias", bias, [qweight.shape[0]])
        check_device(op, "bias", bias, x, "x")
        check(
            bias.dtype in (x.dtype, torch.float32),
            op,
            f"bias must be {dtype_name(x.dtype)} as x is, or float32, got {dtype_name(bias.dtype)}",
        )


def known_type(op: str, qtype: int) -> QuantType:
    check(qtype in FORMATS, op, f"qtype {qtype} is not a GGML type of floating point values")
    return QUANT_TYPES[qtype]
