"""The ops on quantized weights, in plain torch: what every kernel must compute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from ...quant_types import QUANT_TYPES, QuantType
from .packing import unpack_weight
from .quants.registry import FORMATS, WEIGHTED, Format

# Weight elements expanded at a time: 4 MiB of float32, a small multiple of it at the peak.
CHUNK_ELEMENTS = 1 << 20

# Weights of errors relative to their mean: a column that no text used still gets its scale from the
# others like it, and sums of products stay far inside float32.
LEAST_WEIGHT, MOST_WEIGHT = 1e-6, 1e6

# The activations of quant_matmul_gated.
GATED: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": functional.silu,
    "gelu": partial(functional.gelu, approximate="tanh"),
}

QUANTIZABLE = frozenset(qtype for qtype, entry in FORMATS.items() if entry.quantize is not None)


def quantizable_names() -> list[str]:
    """Names of the types that `quantize` can write, in the order of their numbers."""
    return [QUANT_TYPES[qtype].name for qtype in sorted(QUANTIZABLE)]


def dequantize(qweight: Tensor, qtype: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Values of GGML blocks.

    Args:
        qweight: uint8 ``[..., row_bytes]``, rows of whole blocks.
        qtype: GGML type number.
        dtype: of the result. Values are computed in float32, bit-exact with gguf-py, then cast.

    Returns:
        ``[..., K]``.

    Raises:
        ValueError: `qtype` has no dequantizer or a row is no whole number of blocks.
    """
    row, entry = _format(qtype)
    _check_multiple("qweight", qweight, row.block_bytes, f"bytes in a {row.name} block")
    k = qweight.shape[-1] // row.block_bytes * row.block_size
    blocks = qweight.reshape(-1, row.block_bytes)
    out = torch.empty((len(blocks), row.block_size), dtype=dtype, device=qweight.device)
    for part, target in _chunks(row, blocks, out):
        target.copy_(entry.dequantize(part))
    return out.view(*qweight.shape[:-1], k)


def quantize(x: Tensor, qtype: int) -> Tensor:
    """GGML blocks of values: bit-exact with gguf-py for the types that it can quantize.

    Args:
        x: floating point ``[..., K]``; computed in float32.
        qtype: GGML type number, one of `QUANTIZABLE`.

    Returns:
        uint8 ``[..., row_bytes]``.

    Raises:
        ValueError: `qtype` has no quantizer or K is no whole number of blocks.
    """
    row, entry = _format(qtype)
    if entry.quantize is None:
        raise ValueError(
            f"{row.name} has no quantizer; types with one: {', '.join(quantizable_names())}"
        )
    _check_multiple("x", x, row.block_size, f"elements in a {row.name} block")
    row_bytes = x.shape[-1] // row.block_size * row.block_bytes
    blocks = x.reshape(-1, row.block_size)
    out = torch.empty((len(blocks), row.block_bytes), dtype=torch.uint8, device=x.device)
    for part, target in _chunks(row, blocks, out):
        target.copy_(entry.quantize(part.float().contiguous()))
    return out.view(*x.shape[:-1], row_bytes)


def weighted_quantize(x: Tensor, qtype: int, weights: Tensor) -> Tensor:
    """As `quantize`, with scales chosen for the least weighted sum of squared errors.

    Args:
        x: floating point ``[..., K]``; computed in float32.
        qtype: GGML type number, one of `WEIGHTED`.
        weights: ``[K]``, or of x's shape but for dimensions of 1; at least 0. Only their relations
            to each other count. Where a row's are all 0, they count as equal.

    Returns:
        uint8 ``[..., row_bytes]``.

    Raises:
        ValueError: `qtype` knows no weights or K is no whole number of blocks.
    """
    row, entry = _format(qtype)
    if qtype not in WEIGHTED or entry.quantize is None:
        names = ", ".join(QUANT_TYPES[known].name for known in sorted(WEIGHTED))
        raise ValueError(f"{row.name} has no weighted quantizer; types with one: {names}")
    _check_multiple("x", x, row.block_size, f"elements in a {row.name} block")
    weights = weights.float()
    mean = weights.mean(dim=-1, keepdim=True)
    weights = torch.where(mean > 0, weights / mean, 1.0).clamp(LEAST_WEIGHT, MOST_WEIGHT)
    k = x.shape[-1]
    rows, weights = x.reshape(-1, k), weights.expand(x.shape).reshape(-1, k)
    out = []
    for part in range(0, len(rows), step := max(1, CHUNK_ELEMENTS // k)):
        blocks, w = (
            y[part : part + step].float().reshape(-1, row.block_size) for y in (rows, weights)
        )
        out.append(entry.quantize(blocks, w))
    return torch.cat(out).view(*x.shape[:-1], k // row.block_size * row.block_bytes)


def quant_matmul(
    x: Tensor, qweight: Tensor, qtype: int, bias: Tensor | None = None, layout: int = 0
) -> Tensor:
    """``x @ dequantize(qweight).T + bias``, computed in float32 (float64 for a float64 `x`).

    Args:
        x: ``[..., K]``.
        qweight: uint8 ``[N, row_bytes]``.
        qtype: GGML type number.
        bias: ``[N]`` or ``None``.
        layout: 0, blocks as the file has them; 1, as `pack_weight` returns them.

    Returns:
        ``[..., N]`` in `x`'s dtype.

    Raises:
        ValueError: another `layout`, or as `dequantize`.
    """
    if layout not in (0, 1):
        raise ValueError(
            f"layout must be 0 (blocks as the file has them) or 1 (packed), got {layout}"
        )
    if layout == 1:
        qweight = unpack_weight(qweight, qtype)
    inner = x.to(_compute_dtype(x))
    out = inner.new_empty((*x.shape[:-1], len(qweight)))
    for rows in _row_chunks(qweight, qtype):
        out[..., rows] = inner @ dequantize(qweight[rows], qtype, inner.dtype).T
    return (out if bias is None else out + bias).to(x.dtype)


def quant_matmul_gated(
    x: Tensor,
    qweight_gate_up: Tensor,
    qtype: int,
    act: str,
    bias: Tensor | None = None,
    layout: int = 0,
) -> Tensor:
    """The front half of a gated feed-forward layer: ``act(x @ gate.T) * (x @ up.T)``.

    SwiGLU with ``silu``, GeGLU with ``gelu`` (Shazeer, "GLU Variants Improve Transformer", 2020).
    Everything up to the result is float32 (float64 for a float64 `x`).

    Args:
        x: ``[..., K]``.
        qweight_gate_up: uint8 ``[2F, row_bytes]``, the rows of gate, then those of up.
        qtype: GGML type number.
        act: ``"silu"``, or ``"gelu"`` in its tanh form.
        bias: ``[2F]``, added before the activation, or ``None``.
        layout: as of `quant_matmul`.

    Returns:
        ``[..., F]`` in `x`'s dtype.

    Raises:
        ValueError: another `act` or `layout`, an odd number of rows, or as `dequantize`.
    """
    if act not in GATED:
        raise ValueError(f"act must be {' or '.join(GATED)}, got {act}")
    if len(qweight_gate_up) % 2:
        raise ValueError(
            f"qweight_gate_up must have an even number of rows, {qweight_gate_up.shape}"
        )
    inner = x.to(_compute_dtype(x))
    product = quant_matmul(inner, qweight_gate_up, qtype, bias, layout)
    gate, up = product.chunk(2, dim=-1)
    return (GATED[act](gate) * up).to(x.dtype)


def quant_matmul_transposed(g: Tensor, qweight: Tensor, qtype: int) -> Tensor:
    """``g @ dequantize(qweight)``, computed in float32 (float64 for a float64 `g`).

    Args:
        g: ``[..., N]``.
        qweight: uint8 ``[N, row_bytes]``.
        qtype: GGML type number.

    Returns:
        ``[..., K]`` in `g`'s dtype.
    """
    row, _ = _format(qtype)
    inner = g.to(_compute_dtype(g))
    k = qweight.shape[-1] // row.block_bytes * row.block_size
    out = inner.new_zeros((*g.shape[:-1], k))
    for rows in _row_chunks(qweight, qtype):
        out += inner[..., rows] @ dequantize(qweight[rows], qtype, inner.dtype)
    return out.to(g.dtype)


def quant_embedding(
    ids: Tensor, qweight: Tensor, qtype: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Rows of a quantized table.

    Args:
        ids: integers ``[...]``, each in ``[0, N)``.
        qweight: uint8 ``[N, row_bytes]``.
        qtype: GGML type number.
        dtype: of the result.

    Returns:
        ``[..., K]``.

    Raises:
        IndexError: an id outside the table.
    """
    return dequantize(qweight[ids.long()], qtype, dtype)


def _format(qtype: int) -> tuple[QuantType, Format]:
    entry = FORMATS.get(qtype)
    if entry is None:
        known = ", ".join(QUANT_TYPES[q].name for q in sorted(FORMATS))
        name = QUANT_TYPES[qtype].name if qtype in QUANT_TYPES else str(qtype)
        raise ValueError(f"qtype must be a GGML type of floating point values, got {name}: {known}")
    return QUANT_TYPES[qtype], entry


def _check_multiple(name: str, tensor: Tensor, unit: int, meaning: str) -> None:
    if tensor.dim() == 0 or tensor.shape[-1] % unit:
        raise ValueError(
            f"{name}'s last dimension must be a multiple of the {unit} {meaning}, "
            f"got shape {list(tensor.shape)}"
        )


def _compute_dtype(x: Tensor) -> torch.dtype:
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _chunks(row: QuantType, source: Tensor, target: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Blocks and their results, `CHUNK_ELEMENTS` values at a time."""
    size = CHUNK_ELEMENTS // row.block_size
    return zip(source.split(size), target.split(size), strict=True)


def _row_chunks(qweight: Tensor, qtype: int) -> Iterator[slice]:
    """Slices of rows that hold about `CHUNK_ELEMENTS` values, at least one row."""
    row, _ = _format(qtype)
    k = qweight.shape[-1] // row.block_bytes * row.block_size
    step = max(1, CHUNK_ELEMENTS // max(1, k))
    return (slice(start, start + step) for start in range(0, len(qweight), step))
