"""In what arithmetic a linear layer computes, found by looking at what it computes.

Which kernel serves a product depends on the type, the rows, the size and the card, and is decided
where the kernels are. These probes ask the kernels themselves.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..config import config
from ..nn import QuantLinear

EXACT = "float"
INT8 = "8-bit activations"
HALF = "narrow floats"
LARGEST = 127  # the largest code of an activation that is rounded to 8 bits
SUB_BLOCK = 16  # activations that share a scale in the kernel with the fewest


@torch.inference_mode()
def arithmetic(linear: QuantLinear, rows: int, dtype: torch.dtype) -> str:
    """How a layer multiplies `rows` rows of a dtype.

    Returns:
        `EXACT`: the result is, bit by bit, that of `config.exact`.
        `INT8`: activations are rounded to 8 bits: a change that is lost in that makes no other.
        `HALF`: neither; weights and activations meet as floats of 16 bits.
    """
    codes, between = _activations(rows, linear.in_features, dtype, linear.qweight.device)
    result, before = linear(between), config.exact
    try:
        config.exact = True
        exact = linear(between)
    finally:
        config.exact = before
    if torch.equal(result, exact):
        return EXACT
    return INT8 if torch.equal(result, linear(codes)) else HALF


def _activations(
    rows: int, cols: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Whole numbers that 8 bits with any shared scale hold exactly, and a quarter more of them."""
    generator = torch.Generator().manual_seed(rows)
    # Of at most 30, a bfloat16 holds the quarters, too.
    codes = torch.randint(-30, 31, (rows, cols), generator=generator).float()
    largest = torch.arange(cols) % SUB_BLOCK == 0
    codes[:, largest] = LARGEST
    between = torch.where(largest, codes, codes + 0.25)
    return codes.to(device, dtype), between.to(device, dtype)
