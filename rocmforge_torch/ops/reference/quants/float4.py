"""MXFP4 and NVFP4: e2m1 values under an e8m0 or unsigned e4m3 scale.

Block layouts follow ggml-common.h. Both keep the e2m1 values doubled (so that they are integers)
and halve the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import codebooks, grids
from .bits import fields, pack
from .rounding import divide


def e8m0_half(code: Tensor) -> Tensor:
    """``2^(code - 128)`` as float32, of uint8 codes; 0 and 1 are subnormal."""
    code = code.int()
    return torch.where(code < 2, 0x00200000 << code, code - 1 << 23).view(torch.float32)


def ue4m3_half(code: Tensor) -> Tensor:
    """Half the unsigned e4m3 number (bias 7, no infinity) of uint8 codes; 0x7F counts as zero."""
    exponent = (code >> 3 & 15).int()
    mantissa = (code & 7).float()
    normal = torch.ldexp(1 + mantissa / 8, exponent - 8)
    value = torch.where(exponent == 0, mantissa * 2.0**-10, normal)
    return torch.where(code == 0x7F, 0.0, value)


def dequantize_mxfp4(blocks: Tensor) -> Tensor:
    e, q = blocks.split([1, 16], dim=-1)
    return e8m0_half(e) * grids.look_up(grids.KVALUES_E2M1, fields(q, 4, 2).flatten(1))


def dequantize_nvfp4(blocks: Tensor) -> Tensor:
    e, q = blocks.split([4, 32], dim=-1)
    values = grids.look_up(grids.KVALUES_E2M1, fields(q.unflatten(1, (4, 8)), 4, 2).flatten(2))
    return (ue4m3_half(e).unsqueeze(-1) * values).flatten(1)


def _nearest_e2m1(x: Tensor, scale: Tensor) -> Tensor:
    """Codes of the levels ``scale * kvalue`` nearest to `x`, the first of equals."""
    code = torch.zeros_like(x, dtype=torch.uint8)
    least = x.abs()
    for i, level in enumerate(codebooks.KVALUES_E2M1):
        error = (scale * level - x).abs()
        code = torch.where(error < least, i, code)
        least = torch.minimum(error, least)
    return code


def _biased_exponent(amax: Tensor) -> Tensor:
    """The e8m0 code that puts `amax` into the octave of e2m1's largest value; 0 for 0."""
    # In double, rounded to float: just below a power of two this is that power, as it is in ggml.
    exponent = amax.double().log2().float().floor() - 2 + 127
    return torch.where(amax > 0, exponent, 0.0).int().to(torch.uint8)


def quantize_mxfp4(x: Tensor) -> Tensor:
    e = _biased_exponent(x.abs().amax(dim=-1, keepdim=True))
    return torch.cat([e, pack(_nearest_e2m1(x, e8m0_half(e)).unflatten(-1, (2, 16)), 4)], dim=-1)


def ue4m3_code(x: Tensor) -> Tensor:
    """Unsigned e4m3 codes of non-negative numbers as ggml rounds them.

    Halves go up, and all from 248 on become the largest number, 448 (0x7E).
    """
    bits = x.clamp(max=448.0).view(torch.int32)
    normal = (bits + (1 << 19) >> 20) - ((127 - 7) << 3)
    subnormal = (x * 512 + 0.5).int().clamp(0, 7)
    is_normal = bits >> 23 > 127 - 7
    normal = torch.where(normal < 0x78, normal, 0x7E)
    return torch.where(is_normal, normal, subnormal).to(torch.uint8)


def quantize_nvfp4(x: Tensor) -> Tensor:
    groups = x.unflatten(-1, (4, 16))
    e = ue4m3_code(divide(groups.abs().amax(dim=-1), 6))
    q = _nearest_e2m1(groups, ue4m3_half(e).unsqueeze(-1))
    return torch.cat([e, pack(q.unflatten(-1, (2, 8)), 4).flatten(1)], dim=-1)
