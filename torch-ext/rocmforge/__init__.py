"""GGUF weights on Radeon, Instinct and NVIDIA GPUs: products, rows and numbers of packed blocks.

Weights are uint8 tensors of GGML blocks, [rows, row_bytes]; `ggml_type` is the GGML type number.
The functions are those that transformers' own GGUF loader asks a kernel for.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ._ops import add_op_namespace_prefix
from .kernel import GEMV_TYPES, dequantize, get_rows, mul_mat_id, mul_mat_vec
from .quant_types import row_elements


@torch.library.register_fake(add_op_namespace_prefix("quant_matmul"))
def _quant_matmul(
    x: Tensor, qweight: Tensor, qtype: int, bias: Tensor | None = None, layout: int = 0
) -> Tensor:
    return x.new_empty((*x.shape[:-1], qweight.shape[0]))


@torch.library.register_fake(add_op_namespace_prefix("quant_embedding"))
def _quant_embedding(ids: Tensor, qweight: Tensor, qtype: int, dtype: torch.dtype) -> Tensor:
    columns = row_elements(qtype, qweight.shape[-1])
    return qweight.new_empty((*ids.shape, columns), dtype=dtype)


@torch.library.register_fake(add_op_namespace_prefix("dequantize"))
def _dequantize(qweight: Tensor, qtype: int, dtype: torch.dtype) -> Tensor:
    columns = row_elements(qtype, qweight.shape[-1])
    return qweight.new_empty((*qweight.shape[:-1], columns), dtype=dtype)


__all__ = ["GEMV_TYPES", "dequantize", "get_rows", "mul_mat_id", "mul_mat_vec"]
