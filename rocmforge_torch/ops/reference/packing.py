"""The packed layout (layout 1): the bytes of a weight, regrouped so that a GPU reads whole lines.

A block is cut into fields (codes, scales, ...). The packed matrix holds one plane per field, the
most strictly aligned first: `[rows * blocks, size]`, one plane after the other. Nothing is added or
lost, so the shape stays `[rows, row_bytes]`.
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from ...quant_types import QUANT_TYPES

# (offset, bytes) of every field, in the order of the planes: kFields in csrc/hip/quants.
FIELDS: dict[str, tuple[tuple[int, int], ...]] = {
    "Q4_0": ((2, 16), (0, 2)),
    "Q4_1": ((4, 16), (0, 4)),
    "Q5_0": ((6, 16), (2, 4), (0, 2)),
    "Q5_1": ((8, 16), (4, 4), (0, 4)),
    "Q8_0": ((2, 32), (0, 2)),
    "Q8_1": ((4, 32), (0, 4)),
    "Q8_K": ((4, 256), (260, 32), (0, 4)),
    "Q1_0": ((2, 16), (0, 2)),
    "Q2_K": ((16, 64), (0, 16), (80, 4)),
    "Q3_K": ((32, 64), (0, 32), (96, 12), (108, 2)),
    "Q4_K": ((16, 128), (4, 12), (0, 4)),
    "Q5_K": ((48, 128), (16, 32), (4, 12), (0, 4)),
    "Q6_K": ((0, 128), (128, 64), (192, 16), (208, 2)),
    "IQ1_S": ((2, 32), (34, 16), (0, 2)),
    "IQ1_M": ((0, 32), (32, 16), (48, 8)),
    "IQ2_XXS": ((2, 64), (0, 2)),
    "IQ2_XS": ((2, 64), (66, 8), (0, 2)),
    "IQ2_S": ((2, 32), (34, 32), (66, 8), (74, 8), (0, 2)),
    "IQ3_XXS": ((2, 64), (66, 32), (0, 2)),
    "IQ3_S": ((2, 64), (74, 32), (66, 8), (106, 4), (0, 2)),
    "IQ4_NL": ((2, 16), (0, 2)),
    "IQ4_XS": ((8, 128), (4, 4), (0, 4)),
    "TQ1_0": ((0, 32), (32, 16), (48, 4), (52, 2)),
    "TQ2_0": ((0, 64), (64, 2)),
    "MXFP4": ((1, 16), (0, 1)),
    "NVFP4": ((4, 32), (0, 4)),
}


def pack_weight(qweight: Tensor, qtype: int) -> Tensor:
    """Blocks ``[N, row_bytes]`` -> the packed layout, of the same shape. Plain types stay."""
    row = QUANT_TYPES[qtype]
    if row.name not in FIELDS:
        return qweight.clone(memory_format=torch.contiguous_format)
    blocks = rearrange(qweight, "n (block byte) -> (n block) byte", byte=row.block_bytes)
    planes = [blocks[:, at : at + size].flatten() for at, size in FIELDS[row.name]]
    return torch.cat(planes).view(qweight.shape)


def unpack_weight(packed: Tensor, qtype: int) -> Tensor:
    """The inverse of `pack_weight`."""
    row = QUANT_TYPES[qtype]
    if row.name not in FIELDS:
        return packed.clone(memory_format=torch.contiguous_format)
    count = packed.numel() // row.block_bytes
    fields = FIELDS[row.name]
    planes = packed.reshape(-1).split([count * size for _, size in fields])
    blocks = packed.new_empty((count, row.block_bytes))
    for (at, size), plane in zip(fields, planes, strict=True):
        blocks[:, at : at + size] = rearrange(plane, "(block byte) -> block byte", byte=size)
    return blocks.view(packed.shape)
