"""Weights as blocks: what every module here stores, whatever the file holds."""

from __future__ import annotations

import torch
from torch import Tensor

from ..quant_types import QUANT_TYPES_BY_NAME
from ..tensor import GGUFTensor

# Plain floats are GGML types too, with blocks of one element.
_FLOAT_QTYPES = {
    torch.float32: QUANT_TYPES_BY_NAME["F32"].id,
    torch.float16: QUANT_TYPES_BY_NAME["F16"].id,
    torch.bfloat16: QUANT_TYPES_BY_NAME["BF16"].id,
}


def as_blocks(weight: Tensor) -> tuple[Tensor, int]:
    """The blocks of a weight and their type, without a copy, in whatever layout they are.

    Args:
        weight: `GGUFTensor` [N, K], or an ordinary float32, float16 or bfloat16 tensor [N, K].

    Returns:
        qweight uint8 [N, row_bytes] and the GGML type number.

    Raises:
        ValueError: the weight has another dtype, or does not have two dimensions, or is
            transposed.
    """
    if weight.dim() != 2:
        raise ValueError(f"weight must have shape [N, K], got {list(weight.shape)}")
    if isinstance(weight, GGUFTensor):
        if weight.transposed:
            raise ValueError("weight must have rows of blocks, got a transposed GGUFTensor")
        return weight.qweight, weight.qtype
    if weight.dtype not in _FLOAT_QTYPES:
        raise ValueError(
            f"weight must be a GGUFTensor or one of {list(_FLOAT_QTYPES)}, got {weight.dtype}"
        )
    return weight.detach().view(torch.uint8), _FLOAT_QTYPES[weight.dtype]
