"""TQ1_0 and TQ2_0: ternary values with one scale per 256.

Block layouts follow ggml-common.h. A TQ1_0 byte holds five ternary digits as the fraction of 256
that they are as a base-3 number: multiplying by 3 moves the next digit above the byte.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .bits import half, half_bytes, pack
from .k_quants import strided
from .rounding import reciprocal, round_half_away, to_int8


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


def _codes(x: Tensor) -> tuple[Tensor, Tensor]:
    d = x.abs().amax(dim=-1, keepdim=True)
    return d, to_int8(round_half_away(x * reciprocal(d))) + 1


def _pack_digits(q: Tensor, count: int) -> Tensor:
    """The inverse of `_digits`: ``[n, count * m]`` to uint8 ``[n, m]``."""
    powers = torch.tensor([[3 ** (4 - i)] for i in range(count)], device=q.device)
    number = (q.unflatten(1, (count, -1)) * powers).sum(dim=1)
    return ((number * 256 + 242) // 243).to(torch.uint8)


def quantize_tq1_0(x: Tensor) -> Tensor:
    d, q = _codes(x)
    first, second, last = q.split([160, 80, 16], dim=-1)
    digits = [_pack_digits(first, 5), _pack_digits(second, 5), _pack_digits(last, 4)]
    return torch.cat([*digits, half_bytes(d)], dim=-1)


def quantize_tq2_0(x: Tensor) -> Tensor:
    d, q = _codes(x)
    return torch.cat([pack(q.unflatten(1, (2, 4, 32)), 2).flatten(1), half_bytes(d)], dim=-1)
