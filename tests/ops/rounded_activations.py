"""What a GPU computes for up to 16 rows, in float64: activations rounded to 8 bits."""

from __future__ import annotations

import torch
from torch import Tensor

from rocmforge_torch.ops.reference import quant_ops
from rocmforge_torch.quant_types import QuantType

# Where the blocks of types with a minimum keep their codes.
CODES = {
    "Q4_1": slice(4, 20),
    "Q5_1": slice(4, 24),
    "Q2_K": slice(16, 80),
    "Q4_K": slice(16, 144),
    "Q5_K": slice(16, 176),
}


def rounded_to_8_bits(x: Tensor) -> Tensor:
    """x [..., K] as codes of 8 bits with a scale for every 32 hold it: the kernel's float32
    arithmetic, step by step, in float64."""
    blocks = x.float().unflatten(-1, (-1, 32))
    largest = blocks.abs().amax(-1, keepdim=True)
    most = torch.full_like(largest, 127)  # by a number, torch would multiply
    inverse = torch.where(largest > 0, most / largest, 0)
    codes = (blocks.double() * inverse.double()).round()
    return (codes * (largest / most).double()).flatten(-2)


def middles(row: QuantType, qweight: Tensor) -> Tensor:
    """The middle of what every weight could be, float64 [N, K]: between those of the lowest and the
    highest code. Zero for types without a minimum, in whose products it plays no part."""
    codes = CODES.get(row.name)
    if codes is None:
        return torch.zeros_like(quant_ops.dequantize(qweight, row.id).double())
    ends = []
    for byte in (0x00, 0xFF):
        blocks = qweight.clone().unflatten(-1, (-1, row.block_bytes))
        blocks[..., codes] = byte
        ends.append(quant_ops.dequantize(blocks.flatten(-2), row.id).double())
    return (ends[0] + ends[1]) / 2


def product_of_rounded(x: Tensor, values: Tensor, middle: Tensor) -> Tensor:
    """x . values' in float64, where x is rounded for what a weight is above or below its middle."""
    return rounded_to_8_bits(x) @ (values - middle).T + x.double() @ middle.T
