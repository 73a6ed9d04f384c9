"""Q4_0 to Q8_1 and Q1_0: one scale (and one minimum) per block.

Block layouts follow ggml-common.h. Nibbles hold element ``i`` low and element ``i + 16`` high.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .bits import fields, half, split_fields, view_as


def _nibbles(data: Tensor) -> Tensor:
    return fields(data, 4, 2).flatten(-2)


def _five_bits(high: Tensor, low: Tensor) -> Tensor:
    """5-bit codes from one high bit per element, in order, and nibbles."""
    return _nibbles(low) | (split_fields(high, 1, 8).flatten(-2) << 4)


def dequantize_q4_0(blocks: Tensor) -> Tensor:
    d, q = blocks.split([2, 16], dim=-1)
    return half(d) * (_nibbles(q).float() - 8)


def dequantize_q4_1(blocks: Tensor) -> Tensor:
    d, m, q = blocks.split([2, 2, 16], dim=-1)
    return half(d) * _nibbles(q).float() + half(m)


def dequantize_q5_0(blocks: Tensor) -> Tensor:
    d, high, low = blocks.split([2, 4, 16], dim=-1)
    return half(d) * (_five_bits(high, low).float() - 16)


def dequantize_q5_1(blocks: Tensor) -> Tensor:
    d, m, high, low = blocks.split([2, 2, 4, 16], dim=-1)
    return half(d) * _five_bits(high, low).float() + half(m)


def dequantize_q8_0(blocks: Tensor) -> Tensor:
    d, q = blocks.split([2, 32], dim=-1)
    return half(d) * q.view(torch.int8).float()


def dequantize_q8_1(blocks: Tensor) -> Tensor:
    # The second half, d times the sum of the codes, serves dot products only.
    d, _, q = blocks.split([2, 2, 32], dim=-1)
    return half(d) * q.view(torch.int8).float()


def dequantize_q8_k(blocks: Tensor) -> Tensor:
    # The last 16 numbers are sums of 16 codes each, for dot products only.
    d, q, _ = blocks.split([4, 256, 32], dim=-1)
    return view_as(d, torch.float32) * q.view(torch.int8).float()


def dequantize_q1_0(blocks: Tensor) -> Tensor:
    d, bits = blocks.split([2, 16], dim=-1)
    scale = half(d)
    return torch.where(split_fields(bits, 1, 8).flatten(-2).bool(), scale, -scale)
