"""GGUF weights on Radeon, Instinct and NVIDIA GPUs: products, rows and numbers of packed blocks.

Weights are uint8 tensors of GGML blocks, [rows, row_bytes]; `ggml_type` is the GGML type number.
The functions are those that transformers' GGUF loader asks a kernel for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._ops import add_op_namespace_prefix, ops

# GGML type -> (elements in a block, bytes in a block)
BLOCKS = {
    2: (32, 18),  # Q4_0
    3: (32, 20),  # Q4_1
    6: (32, 22),  # Q5_0
    7: (32, 24),  # Q5_1
    8: (32, 34),  # Q8_0
    10: (256, 84),  # Q2_K
    11: (256, 110),  # Q3_K
    12: (256, 144),  # Q4_K
    13: (256, 176),  # Q5_K
    14: (256, 210),  # Q6_K
    16: (256, 66),  # IQ2_XXS
    17: (256, 74),  # IQ2_XS
    18: (256, 98),  # IQ3_XXS
    19: (256, 50),  # IQ1_S
    20: (32, 18),  # IQ4_NL
    21: (256, 110),  # IQ3_S
    22: (256, 82),  # IQ2_S
    23: (256, 136),  # IQ4_XS
    29: (256, 56),  # IQ1_M
    34: (256, 54),  # TQ1_0
    35: (256, 66),  # TQ2_0
    39: (32, 17),  # MXFP4
}
GEMV_TYPES = frozenset(BLOCKS)


@torch.library.register_fake(add_op_namespace_prefix("quant_matmul"))
def _quant_matmul(
    x: Tensor, qweight: Tensor, qtype: int, bias: Tensor | None = None, layout: int = 0
) -> Tensor:
    return x.new_empty((*x.shape[:-1], qweight.shape[0]))


@torch.library.register_fake(add_op_namespace_prefix("quant_embedding"))
def _quant_embedding(ids: Tensor, qweight: Tensor, qtype: int, dtype: torch.dtype) -> Tensor:
    return qweight.new_empty((*ids.shape, _columns(qweight, qtype)), dtype=dtype)


@torch.library.register_fake(add_op_namespace_prefix("dequantize"))
def _dequantize(qweight: Tensor, qtype: int, dtype: torch.dtype) -> Tensor:
    return qweight.new_empty((*qweight.shape[:-1], _columns(qweight, qtype)), dtype=dtype)


def _columns(qweight: Tensor, qtype: int) -> int:
    elements, size = BLOCKS[qtype]
    return qweight.shape[-1] // size * elements


def mul_mat_vec(weight: Tensor, x: Tensor, ggml_type: int, out_features: int) -> Tensor:
    """x float [M, K], of any M, times weight [out_features, row_bytes] transposed, in x's dtype."""
    return ops.quant_matmul(x, weight, ggml_type)


def mul_mat_id(blocks: Tensor, x: Tensor, ids: Tensor, ggml_type: int, out_features: int) -> Tensor:
    """Products of tokens x [T, K] with the experts ids [T, top_k] chosen for each.

    Args:
        blocks: uint8 [E, out_features, row_bytes].

    Returns:
        [T, top_k, out_features], in x's dtype.
    """
    chosen = ids.reshape(-1)
    weights = blocks.index_select(0, chosen)
    tokens = x.repeat_interleave(ids.shape[1], 0)
    rows = [
        ops.quant_matmul(token[None], weight, ggml_type)
        for token, weight in zip(tokens, weights, strict=True)
    ]
    return torch.cat(rows).view(*ids.shape, out_features)


def get_rows(
    weight: Tensor, indices: Tensor, ggml_type: int, cols: int, dtype: torch.dtype
) -> Tensor:
    """Rows [n] of weight [rows, row_bytes], as numbers [n, cols]."""
    return ops.quant_embedding(indices, weight, ggml_type, dtype)


def dequantize(weight: Tensor, ggml_type: int, rows: int, cols: int, dtype: torch.dtype) -> Tensor:
    """weight [rows, row_bytes], as numbers [rows, cols]."""
    return ops.dequantize(weight, ggml_type, dtype).view(rows, cols)


__all__ = ["GEMV_TYPES", "dequantize", "get_rows", "mul_mat_id", "mul_mat_vec"]
