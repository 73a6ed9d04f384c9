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


def quantize_f32(x: Tensor) -> Tensor:
    return x.view(torch.uint8)


def quantize_f16(x: Tensor) -> Tensor:
    return x.half().view(torch.uint8)


def quantize_bf16(x: Tensor) -> Tensor:
    # Round to nearest even; a NaN stays the NaN that it was, made quiet.
    bits = x.view(torch.int32).long() & 0xFFFFFFFF
    bits = torch.where(x.isnan(), (bits & 0xFFFF0000) | 0x400000, bits)
    rounded = bits + 0x7FFF + (bits >> 16 & 1) >> 16
    return rounded.to(torch.int16).view(torch.uint8)
