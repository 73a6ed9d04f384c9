"""IQ1 to IQ4: code books of 8 or 4 values, and non-linear 4-bit levels.

Block layouts follow ggml-common.h and ggml-quants.c. Unless noted, a super-block of 256 falls into
groups of 8 values (4 for IQ3): a grid index each, 8 sign bits per 8 values, and one 4-bit scale
per 16 or 32 values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import grids
from .bits import (
    fields,
    half,
    half_bytes,
    pack,
    pack_split,
    split_fields,
    unsigned16,
    view_as,
)
from .rounding import reciprocal
from .search import Levels, condition, fit_symmetric, half_scale, symmetric_super_block


def _signs(bits: Tensor) -> Tensor:
    """One sign per bit of bytes ``[n, m]``, lowest first, set is negative: ``[n, 8 m]``."""
    return 1 - 2 * split_fields(bits, 1, 8).flatten(1).float()


def _indexed_signs(index: Tensor) -> Tensor:
    """Signs ``[n, 8 m]`` of 7-bit sign indices ``[n, m]``."""
    return _signs(grids.look_up(grids.KSIGNS, index))


def _signed_grid(scale: Tensor, grid: Tensor, index: Tensor, signs: Tensor) -> Tensor:
    """``scale * grid[index] * sign``: scale ``[n, s]``, index ``[n, m]``, signs ``[n, 256]``."""
    magnitude = grids.look_up(grid, index).flatten(1).unflatten(1, (scale.shape[-1], -1))
    return (scale.unsqueeze(-1) * magnitude).flatten(1) * signs


def _signs_and_scale(words: Tensor) -> tuple[Tensor, Tensor]:
    """Four sign indices of 7 bits and a 4-bit scale from 32-bit words ``[n, 4 m]`` (bytes)."""
    word = view_as(words, torch.int32)
    return split_fields(word, 7, 4).flatten(1), (word >> 28 & 15).float()


def _nibble_pairs(data: Tensor) -> Tensor:
    return split_fields(data, 4, 2).flatten(1)


def dequantize_iq2_xxs(blocks: Tensor) -> Tensor:
    d, rest = blocks.split([2, 64], dim=-1)
    index, words = rest.unflatten(-1, (8, 2, 4)).unbind(dim=2)
    signs, scale = _signs_and_scale(words.flatten(1))
    scale = half(d) * (0.5 + scale) * 0.25
    return _signed_grid(scale, grids.IQ2XXS, index.flatten(1), _indexed_signs(signs))


def dequantize_iq2_xs(blocks: Tensor) -> Tensor:
    d, codes, scales = blocks.split([2, 64, 8], dim=-1)
    code = unsigned16(codes)
    scale = half(d) * (0.5 + _nibble_pairs(scales).float()) * 0.25
    return _signed_grid(scale, grids.IQ2XS, code & 511, _indexed_signs(code >> 9))


def dequantize_iq2_s(blocks: Tensor) -> Tensor:
    d, low, signs, high, scales = blocks.split([2, 32, 32, 8, 8], dim=-1)
    index = low.int() | (split_fields(high, 2, 4).flatten(1).int() << 8)
    scale = half(d) * (0.5 + _nibble_pairs(scales).float()) * 0.25
    return _signed_grid(scale, grids.IQ2S, index, _signs(signs))


def dequantize_iq3_xxs(blocks: Tensor) -> Tensor:
    d, index, words = blocks.split([2, 64, 32], dim=-1)
    signs, scale = _signs_and_scale(words)
    scale = half(d) * (0.5 + scale) * 0.5
    return _signed_grid(scale, grids.IQ3XXS, index, _indexed_signs(signs))


def dequantize_iq3_s(blocks: Tensor) -> Tensor:
    d, low, high, signs, scales = blocks.split([2, 64, 8, 32, 4], dim=-1)
    index = low.int() | (split_fields(high, 1, 8).flatten(1).int() << 8)
    scale = half(d) * (1 + 2 * _nibble_pairs(scales).float())
    return _signed_grid(scale, grids.IQ3S, index, _signs(signs))


def _ternary_grid(scale: Tensor, index: Tensor, negative_shift: Tensor) -> Tensor:
    """``scale * (grid[index] ± 1/8)``, all but the index one per group of 8 or a multiple."""
    shift = torch.where(negative_shift.bool(), -0.125, 0.125)
    values = grids.look_up(grids.IQ1S, index)
    per_group = values.shape[1] // shift.shape[1]
    shifted = values + shift.repeat_interleave(per_group, dim=1).unsqueeze(-1)
    return (scale.unsqueeze(-1) * shifted.flatten(1).unflatten(1, (scale.shape[1], -1))).flatten(1)


def dequantize_iq1_s(blocks: Tensor) -> Tensor:
    # A 16-bit word per 32 values: four times 3 high index bits, a 3-bit scale, the shift's sign.
    d, low, words = blocks.split([2, 32, 16], dim=-1)
    word = unsigned16(words)
    index = low.int() | (split_fields(word, 3, 4).flatten(1) << 8)
    scale = half(d) * (2 * (word >> 12 & 7) + 1).float()
    return _ternary_grid(scale, index, word >> 15)


def dequantize_iq1_m(blocks: Tensor) -> Tensor:
    # Four 16-bit words, each with four 3-bit scales and 4 bits of the float16 super-block scale.
    low, high, words = blocks.split([32, 16, 8], dim=-1)
    word = unsigned16(words)
    d = (word >> 12 << torch.arange(0, 16, 4, device=word.device)).sum(1)
    d = d.to(torch.int16).view(torch.float16).float().unsqueeze(-1)
    scale = d * (2 * split_fields(word, 3, 4).flatten(1) + 1).float()
    nibble = _nibble_pairs(high)
    return _ternary_grid(scale, low.int() | ((nibble & 7).int() << 8), nibble >> 3)


def dequantize_iq4_nl(blocks: Tensor) -> Tensor:
    d, q = blocks.split([2, 16], dim=-1)
    return half(d) * grids.look_up(grids.KVALUES_IQ4NL, fields(q, 4, 2).flatten(1))


def dequantize_iq4_xs(blocks: Tensor) -> Tensor:
    d, high, low, q = blocks.split([2, 2, 4, 128], dim=-1)
    scale = _nibble_pairs(low) | (split_fields(high, 2, 4).flatten(1) << 4)
    scale = half(d) * (scale.float() - 32)
    values = grids.look_up(grids.KVALUES_IQ4NL, fields(q.unflatten(1, (8, 16)), 4, 2).flatten(2))
    return (scale.unsqueeze(-1) * values).flatten(1)


def _iq4_code(y: Tensor) -> Tensor:
    """Index of the nearest level, the upper one of two as near."""
    return torch.bucketize(y, grids.IQ4NL_MIDDLES.to(y.device), right=True)


IQ4_LEVELS = Levels(
    lambda y: grids.look_up(grids.KVALUES_IQ4NL, _iq4_code(y)),
    [-142.0, -134.0, -127.0, -120.0, -112.0, -104.0, 104.0, 113.0, 122.0],
)


def quantize_iq4_nl(x: Tensor, weights: Tensor | None = None) -> Tensor:
    x = condition(x)
    d = half_scale(fit_symmetric(x, IQ4_LEVELS, weights))
    code = _iq4_code(x * reciprocal(d))
    return torch.cat([half_bytes(d), pack(code.unflatten(1, (2, 16)), 4)], dim=-1)


def quantize_iq4_xs(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, scale, q = symmetric_super_block(x.unflatten(1, (8, 32)), IQ4_LEVELS, 32, weights)
    code = (scale + 32).to(torch.uint8)
    low = pack_split((code & 15).unflatten(1, (4, 2)), 4)
    high = pack_split((code >> 4).unflatten(1, (2, 4)), 2)
    packed = pack(_iq4_code(q).unflatten(2, (2, 16)), 4).flatten(1)
    return torch.cat([half_bytes(d), high, low, packed], dim=-1)
