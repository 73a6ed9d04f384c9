"""TQ1_0 and TQ2_0: ternary values with one scale per 256.

Block layouts follow ggml-common.h. A TQ1_0 byte holds five ternary digits as the fraction of 256
that they are as a base-3 number: multiplying by 3 moves the next digit above the byte.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .bits import half
from .k_quants import strided


def _digits(data: Tensor, count: int) -> Tensor:
    """The first `count` ternary digits of bytes ``[n, m]`` as ``[n, count * m]``, 0 to 2."""
    powers = torch.tensor([[3**i] for i in range(count)], device=data.device)
    return (((data.unsqueeze(1).int() * powers) & 255) * 3 >> 8).flatten(1)


def dequantize_tq1_0(blocks: Tensor) -> Tensor:
    first, second, last, d = blocks.split([32, 16, 4, 2], dim=-1)
    q = torch.cat([_digits(first, 5), _digits(second, 5), _digits(last, 4)], dim=-1)
    return half(d) * (q.float() - 1)


def dequantize_tq2_0(blocks: Tensor) -> Tensor:
    q, d = blocks.split([64, 2], dim=-1)
    return half(d) * (strided(q, 2, 32).float() - 1)
