"""F32, F16, BF16: blocks of one number."""

from __future__ import annotations

import torch
from torch import Tensor

from .bits import half, view_as


def dequantize_f32(blocks: Tensor) -> Tensor:
    return view_as(blocks, torch.float32)


def dequantize_f16(blocks: Tensor) -> Tensor:
    return half(blocks)


def dequantize_bf16(blocks: Tensor) -> Tensor:
    return view_as(blocks, torch.bfloat16).float()
