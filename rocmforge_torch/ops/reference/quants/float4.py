"""MXFP4 and NVFP4: e2m1 values under an e8m0 or unsigned e4m3 scale.

Block layouts follow ggml-common.h. Both keep the e2m1 values doubled (so that they are integers)
and halve the scale.
"""

from __future__ import annotations

import torch
from torch import Tensor

from . import grids
from .bits import fields


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
