"""Q4_0 to Q8_1 and Q1_0: one scale (and one minimum) per block.

Block layouts follow ggml-common.h. Nibbles hold element ``i`` low and element ``i + 16`` high.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .bits import fields, half, half_bytes, pack, pack_split, split_fields, view_as
from .rounding import divide, largest, reciprocal, round_half_away, smallest, to_int8, truncate
from .search import condition, fit_affine, fit_symmetric, half_scale, whole_levels

MARGINS = (-1.0, -0.625, -0.375, -0.125, 0.125, 0.375, 0.625, 1.0)
SEARCHED = {zero: whole_levels(zero, MARGINS) for zero in (8, 16)}


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


def _pack_nibbles(q: Tensor) -> Tensor:
    return pack(q.unflatten(-1, (2, 16)), 4)


def _pack_five_bits(q: Tensor) -> Tensor:
    return torch.cat([pack_split(q.unflatten(-1, (4, 8)) >> 4, 1), _pack_nibbles(q & 15)], dim=-1)


def _codes_around_zero(
    x: Tensor, zero: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Scale and codes ``[0, 2 zero)`` where the largest magnitude becomes code 0."""
    if weights is not None:
        return _searched_around_zero(x, zero, weights)
    d = divide(largest(x), -zero)
    q = truncate(x * reciprocal(d) + (zero + 0.5), 2 * zero - 1)
    return d, q


def _codes_above_minimum(
    x: Tensor, levels: int, weights: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, minimum and codes ``[0, levels)``."""
    if weights is not None:
        return _searched_above_minimum(x, levels, weights)
    minimum = smallest(x)
    d = divide(-smallest(-x) - minimum, levels - 1)
    q = truncate((x - minimum) * reciprocal(d) + 0.5, levels - 1)
    return d, minimum, q


def _searched_around_zero(x: Tensor, zero: int, weights: Tensor) -> tuple[Tensor, Tensor]:
    """As `_codes_around_zero`, with the scale of the least weighted error."""
    x, levels = condition(x), SEARCHED[zero]
    d = half_scale(fit_symmetric(x, levels, weights))
    return d, (levels.nearest(x * reciprocal(d)) + zero).to(torch.uint8)


def _searched_above_minimum(
    x: Tensor, levels: int, weights: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """As `_codes_above_minimum`, with scale and minimum of the least weighted error."""
    x = condition(x)
    top = x.amax(dim=-1, keepdim=True)
    scale, below = fit_affine(x - top, levels - 1, weights)  # where every minimum is negative
    d, minimum = half_scale(scale), half_scale(top - below)
    q = ((x - minimum) * reciprocal(d)).round().clamp(0, levels - 1)
    return d, minimum, q.to(torch.uint8)


def quantize_q4_0(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, q = _codes_around_zero(x, 8, weights)
    return torch.cat([half_bytes(d), _pack_nibbles(q)], dim=-1)


def quantize_q4_1(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, minimum, q = _codes_above_minimum(x, 16, weights)
    return torch.cat([half_bytes(d), half_bytes(minimum), _pack_nibbles(q)], dim=-1)


def quantize_q5_0(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, q = _codes_around_zero(x, 16, weights)
    return torch.cat([half_bytes(d), _pack_five_bits(q)], dim=-1)


def quantize_q5_1(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, minimum, q = _codes_above_minimum(x, 32, weights)
    return torch.cat([half_bytes(d), half_bytes(minimum), _pack_five_bits(q)], dim=-1)


def _codes_of_8_bits(x: Tensor) -> tuple[Tensor, Tensor]:
    d = divide(x.abs().amax(dim=-1, keepdim=True), 127)
    return d, to_int8(round_half_away(x * reciprocal(d)))


def quantize_q8_0(x: Tensor) -> Tensor:
    d, q = _codes_of_8_bits(x)
    return torch.cat([half_bytes(d), q.view(torch.uint8)], dim=-1)


def quantize_q8_1(x: Tensor) -> Tensor:
    d, q = _codes_of_8_bits(x)
    total = q.sum(dim=-1, keepdim=True).float() * d
    return torch.cat([half_bytes(d), half_bytes(total), q.view(torch.uint8)], dim=-1)


def quantize_q8_k(x: Tensor) -> Tensor:
    inverse = divide(-127.0, largest(x))
    inverse = torch.where(inverse.isinf(), 0.0, inverse)
    q = to_int8((x * inverse).round())
    sums = q.unflatten(-1, (16, 16)).sum(dim=-1).to(torch.int16)
    parts = [reciprocal(inverse), q, sums]
    return torch.cat([part.contiguous().view(torch.uint8) for part in parts], dim=-1)


def quantize_q1_0(x: Tensor) -> Tensor:
    # ggml's mean of magnitudes, added one after the other.
    total = torch.zeros_like(x[:, :1])
    for magnitude in x.abs().split(1, dim=-1):
        total = total + magnitude
    return torch.cat([half_bytes(total / 128), pack_split((x >= 0).unflatten(-1, (16, 8)), 1)], -1)
