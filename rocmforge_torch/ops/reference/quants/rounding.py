"""float32 arithmetic that gives the same bits on every device and in the C++ quantizers.

PyTorch may divide by a Python number as a product with its reciprocal, and sums in an order of its
own; these do neither.
"""

from __future__ import annotations

import torch
from torch import Tensor


def divide(a: Tensor | float, b: Tensor | float) -> Tensor:
    """IEEE division; at least one of the two is a tensor."""
    if not isinstance(a, Tensor):
        assert isinstance(b, Tensor)
        return torch.full_like(b, a) / b
    return a / (b if isinstance(b, Tensor) else torch.full_like(a, b))


def reciprocal(d: Tensor) -> Tensor:
    """``1 / d``, and 0 where `d` is 0."""
    return torch.where(d == 0, 0.0, 1 / d)


def tree_sum(x: Tensor) -> Tensor:
    """Sum over the last dimension, a power of two long, by halves: ``[..., m]`` to ``[..., 1]``."""
    while x.shape[-1] > 1:
        low, high = x.chunk(2, dim=-1)
        x = low + high
    return x


def round_half_away(x: Tensor) -> Tensor:
    """Round to the nearest integer, halves away from zero, as C's ``roundf``."""
    magnitude = x.abs()
    floor = magnitude.floor()
    return x.sign() * (floor + (2 * (magnitude - floor)).floor())


def truncate(x: Tensor, limit: int) -> Tensor:
    """Codes in ``[0, limit]``: the whole part of `x`, and 0 where `x` is no number near them."""
    return torch.where((x >= 0) & (x < 256), x, 0.0).to(torch.uint8).clamp(max=limit)


def to_int8(x: Tensor) -> Tensor:
    """Whole numbers in ``[-127, 127]`` as int8, and 0 where `x` is no such number."""
    return torch.where(x.abs() <= 127, x, 0.0).to(torch.int8)


def largest(x: Tensor) -> Tensor:
    """The (first) element of largest magnitude, with its sign: ``[..., m]`` to ``[..., 1]``."""
    return x.gather(-1, x.abs().argmax(dim=-1, keepdim=True))


def smallest(x: Tensor) -> Tensor:
    """The (last) smallest element: ``[..., m]`` to ``[..., 1]``. Of -0 and +0 the last counts."""
    backwards = x.flip(-1)
    return backwards.gather(-1, backwards.argmin(dim=-1, keepdim=True))
