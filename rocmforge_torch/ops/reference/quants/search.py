"""Least-squares search for the scales of Q2_K to Q6_K, IQ4_NL and IQ4_XS.

A sub-block is fitted as ``scale * q - minimum`` or ``scale * level``: several roundings of it to
codes are tried, scale and minimum are solved from each by least squares, and the best is kept.
A super-block then rounds the scales of its sub-blocks to integers, and every sub-block takes the
best of the neighbouring integers. Errors are sums of squares, of which each may have a weight
(what an importance matrix says of its column).

Every product, sum and division is written out in its order (see rounding.py), because the C++
quantizers in csrc/cpu/quantize do the same steps and give the same bits. They know no weights: all
are 1, and a product with 1 changes no bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from .rounding import divide, largest, reciprocal, tree_sum

HALF_MAX = 65504.0
# Beyond these a float16 scale times the largest integers is 0 or overflows for every type here.
TINY, HUGE = 2.0**-40, 2.0**30
# Where the ends of the code range lie beyond (positive) or within the values' range, in steps.
AFFINE_MARGINS = tuple(product((-0.25, 0.25, -0.625, 0.625), repeat=2))
# A fit must be better by this part of the values' squares, which is what rounding alone can do:
# of several exact fits (values that have been quantized before) the first, anchored at the
# smallest value, has the minimum that the super-block can represent.
NOISE = 2.0**-30


@dataclass(frozen=True)
class Levels:
    """The levels of a symmetric type: their rounding, and the margins worth trying.

    Attributes:
        nearest: float32 in units of the scale to the nearest level.
        targets: the values that the element of largest magnitude is scaled to.
    """

    nearest: Callable[[Tensor], Tensor]
    targets: Sequence[float]


def condition(x: Tensor) -> Tensor:
    """Replace what no scale can represent: NaN by 0, tiny numbers by 0, huge ones by `HUGE`."""
    x = torch.where(x.abs() < TINY, 0.0, x.nan_to_num(0.0))
    return x.clamp(-HUGE, HUGE)


def half_scale(scale: Tensor) -> Tensor:
    """Rounded to float16 and back, never infinite."""
    return scale.clamp(-HALF_MAX, HALF_MAX).half().float()


def _square_error(fitted: Tensor, x: Tensor, weights: Tensor) -> Tensor:
    difference = fitted - x
    return tree_sum(weights * (difference * difference))


def _like(x: Tensor, weights: Tensor | None) -> Tensor:
    return torch.ones_like(x) if weights is None else weights.reshape(x.shape)


def whole_levels(count: int, margins: Sequence[float]) -> Levels:
    """The integers ``[-count, count)``.

    The largest magnitude becomes the lowest level; a margin lets it be clipped or stay below.
    """
    return Levels(
        lambda y: y.round().clamp(-count, count - 1), [-count - margin for margin in margins]
    )


def fit_affine(x: Tensor, qmax: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Scale and minimum, both ``>= 0``, of ``scale * q - minimum`` with q in ``[0, qmax]``.

    Args:
        x: ``[..., m]``, conditioned.
        qmax: largest code.
        weights: of the squared errors, as many as x has numbers; None for all 1.

    Returns:
        ``[..., 1]`` twice.
    """
    weights = _like(x, weights)
    count = tree_sum(weights)
    low = x.amin(dim=-1, keepdim=True).clamp(max=0.0)
    span = x.amax(dim=-1, keepdim=True) - low
    sum_x = tree_sum(weights * x)
    scale, minimum = torch.zeros_like(low), 0.0 - low
    least = _square_error(low, x, weights)
    noise = tree_sum(weights * (x * x)) * NOISE

    def try_codes(q: Tensor) -> None:
        nonlocal scale, minimum, least
        sum_q, sum_qq, sum_xq = (tree_sum(weights * y) for y in (q, q * q, x * q))
        determinant = count * sum_qq - sum_q * sum_q
        new_scale = (count * sum_xq - sum_x * sum_q) / determinant
        new_minimum = (new_scale * sum_q - sum_x) / count
        free = (determinant > 0) & (new_minimum >= 0)
        new_scale = torch.where(free, new_scale, sum_xq / sum_qq)
        new_minimum = torch.where(free, new_minimum, 0.0)
        error = _square_error(new_scale * q - new_minimum, x, weights)
        better = (new_scale > 0) & (error < least - noise)
        scale = torch.where(better, new_scale, scale)
        minimum = torch.where(better, new_minimum, minimum)
        least = torch.where(better, error, least)

    for below, above in AFFINE_MARGINS:
        inverse = torch.where(span > 0, divide(qmax + below + above, span), 0.0)
        try_codes(((x - low) * inverse - below).round().clamp(0, qmax))
    try_codes(affine_codes(x, scale, minimum, qmax))
    return scale, minimum


def affine_codes(x: Tensor, scale: Tensor, minimum: Tensor, qmax: int) -> Tensor:
    """The nearest codes, as float32."""
    return ((x + minimum) * reciprocal(scale)).round().clamp(0, qmax)


def fit_symmetric(x: Tensor, levels: Levels, weights: Tensor | None = None) -> Tensor:
    """The scale of ``scale * level``: ``[..., m]``, conditioned, to ``[..., 1]``.

    `weights` are as in `fit_affine`.
    """
    weights = _like(x, weights)
    inverse_largest = reciprocal(largest(x))
    scale = torch.zeros_like(inverse_largest)
    least = tree_sum(weights * (x * x))

    def try_codes(q: Tensor) -> None:
        nonlocal scale, least
        sum_qq = tree_sum(weights * (q * q))
        new_scale = tree_sum(weights * (x * q)) / sum_qq
        error = _square_error(new_scale * q, x, weights)
        better = (sum_qq > 0) & (error < least)
        scale = torch.where(better, new_scale, scale)
        least = torch.where(better, error, least)

    for target in levels.targets:
        try_codes(levels.nearest(x * (target * inverse_largest)))
    try_codes(levels.nearest(x * reciprocal(scale)))
    return scale


def affine_super_block(
    x: Tensor, qmax: int, scale_max: int, weights: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Fit super-blocks of sub-blocks ``scale * q - minimum`` with integer scales and minima.

    Args:
        x: float32 ``[n, sub-blocks, m]``.
        qmax: largest code.
        scale_max: largest integer scale and minimum.
        weights: as in `fit_affine`.

    Returns:
        d and dmin ``[n, 1]`` (float16 numbers), integer scales and minima ``[n, sub-blocks]``,
        codes ``[n, sub-blocks, m]``; all float32.
    """
    x, weights = condition(x), _like(x, weights)
    scale, minimum = fit_affine(x, qmax, weights)
    d = half_scale(divide(scale.amax(dim=1, keepdim=True), scale_max))
    dmin = half_scale(divide(minimum.amax(dim=1, keepdim=True), scale_max))
    scale = (scale * reciprocal(d)).round().clamp(0, scale_max)
    minimum = (minimum * reciprocal(dmin)).round().clamp(0, scale_max)
    start_scale, start_minimum = scale, minimum
    least = torch.full_like(scale, torch.inf)
    for i, j in product((0, -1, 1), repeat=2):
        new_scale = (start_scale + i).clamp(0, scale_max)
        new_minimum = (start_minimum + j).clamp(0, scale_max)
        step, offset = d * new_scale, dmin * new_minimum
        fitted = step * affine_codes(x, step, offset, qmax) - offset
        error = _square_error(fitted, x, weights)
        better = error < least
        scale = torch.where(better, new_scale, scale)
        minimum = torch.where(better, new_minimum, minimum)
        least = torch.where(better, error, least)
    q = affine_codes(x, d * scale, dmin * minimum, qmax)
    return d.squeeze(2), dmin.squeeze(2), scale.squeeze(2), minimum.squeeze(2), q


def symmetric_super_block(
    x: Tensor, levels: Levels, scale_max: int, weights: Tensor | None = None
) -> tuple[Tensor, ...]:
    """Fit super-blocks of sub-blocks ``scale * level`` with signed integer scales.

    Args:
        x: float32 ``[n, sub-blocks, m]``.
        levels: the levels.
        scale_max: integer scales are in ``[-scale_max, scale_max)``.
        weights: as in `fit_affine`.

    Returns:
        d ``[n, 1]`` (float16 numbers), integer scales ``[n, sub-blocks]``, levels
        ``[n, sub-blocks, m]``; all float32.
    """
    x, weights = condition(x), _like(x, weights)
    scale = fit_symmetric(x, levels, weights)
    d = half_scale(divide(largest(scale.squeeze(2)), -scale_max)).unsqueeze(2)
    scale = (scale * reciprocal(d)).round().clamp(-scale_max, scale_max - 1)
    start = scale
    least = torch.full_like(scale, torch.inf)
    for i in (0, -1, 1):
        new_scale = (start + i).clamp(-scale_max, scale_max - 1)
        step = d * new_scale
        error = _square_error(step * levels.nearest(x * reciprocal(step)), x, weights)
        better = error < least
        scale = torch.where(better, new_scale, scale)
        least = torch.where(better, error, least)
    q = levels.nearest(x * reciprocal(d * scale))
    return d.squeeze(2), scale.squeeze(2), q
