"""The functions that transformers' own GGUF loader asks a kernel package for.

transformers keeps each weight as uint8 blocks, [rows, row_bytes] (experts: [E, rows, row_bytes]),
and hands them over with the GGML type number. All of these run wherever our ops do, and
`mul_mat_vec` takes any number of rows.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ... import ops  # noqa: F401  (registers the operators)
from ...quant_types import QUANT_TYPES

rocmforge = torch.ops.rocmforge

GEMV_TYPES = frozenset(row.id for row in QUANT_TYPES.values() if row.is_quantized)


def mul_mat_vec(weight: Tensor, x: Tensor, ggml_type: int, out_features: int) -> Tensor:
    """x float [M, K] times weight uint8 [N, row_bytes] transposed -> [M, N], in x's dtype."""
    product: Tensor = rocmforge.quant_matmul(x, weight, ggml_type)
    return product


def mul_mat_id(blocks: Tensor, x: Tensor, ids: Tensor, ggml_type: int, out_features: int) -> Tensor:
    """Each token's product with each of the experts chosen for it.

    Up to as many choices as there are experts, the chosen blocks are gathered, and nothing waits
    for the device; beyond that, tokens are grouped by expert, which reads their numbers once.

    Args:
        blocks: uint8 [E, N, row_bytes].
        x: float [T, K].
        ids: int [T, top_k], experts from 0 to E - 1.

    Returns:
        [T, top_k, N], in x's dtype.
    """
    top_k = ids.shape[1]
    chosen = ids.reshape(-1)
    if chosen.numel() <= blocks.shape[0]:
        gathered = blocks.index_select(0, chosen)
        rows = [
            rocmforge.quant_matmul(x[i // top_k : i // top_k + 1], gathered[i], ggml_type)
            for i in range(chosen.numel())
        ]
        return torch.cat(rows).view(-1, top_k, out_features)
    order = chosen.argsort()
    counts = torch.bincount(chosen, minlength=blocks.shape[0]).tolist()
    groups = x.index_select(0, order // top_k).split(counts)
    products = [
        rocmforge.quant_matmul(rows, expert, ggml_type)
        for rows, expert in zip(groups, blocks.unbind(), strict=True)
        if rows.shape[0]
    ]
    out = x.new_empty(chosen.numel(), out_features)
    return out.index_copy(0, order, torch.cat(products)).view(-1, top_k, out_features)


def get_rows(
    weight: Tensor, indices: Tensor, ggml_type: int, cols: int, dtype: torch.dtype
) -> Tensor:
    """Rows [n] of weight uint8 [N, row_bytes] -> their numbers [n, cols] in `dtype`."""
    rows: Tensor = rocmforge.quant_embedding(indices, weight, ggml_type, dtype)
    return rows


def dequantize(weight: Tensor, ggml_type: int, rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    """weight uint8 [rows, row_bytes] -> its numbers [rows, cols] in `dtype`."""
    values: Tensor = rocmforge.dequantize(weight, ggml_type, dtype)
    return values.view(rows, cols)
