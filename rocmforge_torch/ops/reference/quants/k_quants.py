"""Q2_K to Q6_K: super-blocks of 256 with quantized sub-block scales.

Block layouts follow ggml-common.h. Wherever a byte holds several elements, they are `stride`
elements apart, so that neighbouring bytes hold neighbouring elements.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from .bits import fields, half, half_bytes, pack
from .search import affine_super_block, symmetric_super_block, whole_levels


def strided(data: Tensor, bits: int, stride: int) -> Tensor:
    """Codes of `bits` bits, ``8 / bits`` a byte and `stride` elements apart, as ``[n, 256]``."""
    groups = rearrange(data, "n (group stride) -> n group stride", stride=stride)
    codes = fields(groups, bits, 8 // bits)
    return rearrange(codes, "n group count stride -> n (group count stride)")


def scales_and_mins(packed: Tensor) -> tuple[Tensor, Tensor]:
    """8 scales and 8 minima of 6 bits from the 12 bytes of Q4_K and Q5_K.

    Bytes 0-3 and 4-7: scales and minima 0-3 in the low 6 bits, the top 2 bits of number ``i + 4``
    above them. Bytes 8-11: the low 4 bits of scales (low) and minima (high) 4-7.
    """
    scale, minimum, rest = packed.split(4, dim=-1)
    scales = torch.cat([scale & 63, (rest & 15) | (scale >> 6 << 4)], dim=-1)
    minima = torch.cat([minimum & 63, (rest >> 4) | (minimum >> 6 << 4)], dim=-1)
    return scales.float(), minima.float()


def signed_scales(packed: Tensor) -> Tensor:
    """16 signed 6-bit scales from the 12 bytes of Q3_K: nibbles in 8 bytes, top bits in 4."""
    low, high = packed.split([8, 4], dim=-1)
    return (fields(low, 4, 2).flatten(1) | (fields(high, 2, 4).flatten(1) << 4)).float() - 32


def _scaled(scale: Tensor, q: Tensor, minimum: Tensor | None = None) -> Tensor:
    """``scale * q - minimum`` with one scale and minimum per sub-block: ``[n, 256]``."""
    y = scale[..., None] * rearrange(q, "n (sub code) -> n sub code", sub=scale.shape[-1])
    if minimum is not None:
        y = y - minimum[..., None]
    return rearrange(y, "n sub code -> n (sub code)")


def dequantize_q2_k(blocks: Tensor) -> Tensor:
    scales, q, d, dmin = blocks.split([16, 64, 2, 2], dim=-1)
    return _scaled(
        half(d) * (scales & 15).float(),
        strided(q, 2, 32).float(),
        half(dmin) * (scales >> 4).float(),
    )


def dequantize_q3_k(blocks: Tensor) -> Tensor:
    high, low, scales, d = blocks.split([32, 64, 12, 2], dim=-1)
    q = strided(low, 2, 32) | (strided(high, 1, 32) << 2)
    return _scaled(half(d) * signed_scales(scales), q.float() - 4)


def dequantize_q4_k(blocks: Tensor) -> Tensor:
    d, dmin, packed, q = blocks.split([2, 2, 12, 128], dim=-1)
    scales, minima = scales_and_mins(packed)
    return _scaled(half(d) * scales, strided(q, 4, 32).float(), half(dmin) * minima)


def dequantize_q5_k(blocks: Tensor) -> Tensor:
    d, dmin, packed, high, low = blocks.split([2, 2, 12, 32, 128], dim=-1)
    scales, minima = scales_and_mins(packed)
    q = strided(low, 4, 32) | (strided(high, 1, 32) << 4)
    return _scaled(half(d) * scales, q.float(), half(dmin) * minima)


def dequantize_q6_k(blocks: Tensor) -> Tensor:
    low, high, scales, d = blocks.split([128, 64, 16, 2], dim=-1)
    q = strided(low, 4, 64) | (strided(high, 2, 32) << 4)
    return _scaled(half(d) * scales.view(torch.int8).float(), q.float() - 32)


Q3_LEVELS = whole_levels(4, [-0.875, -0.625, -0.375, -0.125, 0.125, 0.375, 0.625, 0.875])
Q6_LEVELS = whole_levels(32, [-1.25, -0.875, -0.5, -0.25, 0.0, 0.25, 0.5, 0.875])


def pack_strided(q: Tensor, bits: int, stride: int) -> Tensor:
    """The inverse of `strided`: integers ``[n, 256]`` to bytes."""
    order = "n (group count stride) -> n group count stride"
    packed = pack(rearrange(q, order, count=8 // bits, stride=stride), bits)
    return rearrange(packed, "n group stride -> n (group stride)")


def pack_scales_and_mins(scales: Tensor, minima: Tensor) -> Tensor:
    """The inverse of `scales_and_mins`."""
    first_scales, last_scales = scales.to(torch.uint8).split(4, dim=-1)
    first_minima, last_minima = minima.to(torch.uint8).split(4, dim=-1)
    parts = [
        first_scales | (last_scales >> 4 << 6),
        first_minima | (last_minima >> 4 << 6),
        (last_scales & 15) | ((last_minima & 15) << 4),
    ]
    return torch.cat(parts, dim=-1)


def pack_signed_scales(scales: Tensor) -> Tensor:
    """The inverse of `signed_scales`."""
    code = (scales + 32).to(torch.uint8)
    low = pack((code & 15).unflatten(-1, (2, 8)), 4)
    return torch.cat([low, pack((code >> 4).unflatten(-1, (4, 4)), 2)], dim=-1)


def quantize_q2_k(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, dmin, scale, minimum, q = affine_super_block(x.unflatten(1, (16, 16)), 3, 15, weights)
    scales = (scale + 16 * minimum).to(torch.uint8)
    packed = pack_strided(q.flatten(1), 2, 32)
    return torch.cat([scales, packed, half_bytes(d), half_bytes(dmin)], dim=-1)


def quantize_q3_k(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, scale, q = symmetric_super_block(x.unflatten(1, (16, 16)), Q3_LEVELS, 32, weights)
    code = (q.flatten(1) + 4).to(torch.uint8)
    high, low = pack_strided(code >> 2, 1, 32), pack_strided(code & 3, 2, 32)
    return torch.cat([high, low, pack_signed_scales(scale), half_bytes(d)], dim=-1)


def quantize_q4_k(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, dmin, scale, minimum, q = affine_super_block(x.unflatten(1, (8, 32)), 15, 63, weights)
    head = [half_bytes(d), half_bytes(dmin), pack_scales_and_mins(scale, minimum)]
    return torch.cat([*head, pack_strided(q.flatten(1), 4, 32)], dim=-1)


def quantize_q5_k(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, dmin, scale, minimum, q = affine_super_block(x.unflatten(1, (8, 32)), 31, 63, weights)
    code = q.flatten(1).to(torch.uint8)
    head = [half_bytes(d), half_bytes(dmin), pack_scales_and_mins(scale, minimum)]
    high, low = pack_strided(code >> 4, 1, 32), pack_strided(code & 15, 4, 32)
    return torch.cat([*head, high, low], dim=-1)


def quantize_q6_k(x: Tensor, weights: Tensor | None = None) -> Tensor:
    d, scale, q = symmetric_super_block(x.unflatten(1, (16, 16)), Q6_LEVELS, 128, weights)
    code = (q.flatten(1) + 32).to(torch.uint8)
    low, high = pack_strided(code & 15, 4, 64), pack_strided(code >> 4, 2, 32)
    return torch.cat([low, high, scale.to(torch.int8).view(torch.uint8), half_bytes(d)], dim=-1)
