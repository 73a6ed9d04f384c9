"""From times of kernels to limits: where one kernel should end and the next begin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import combinations_with_replacement
from math import inf

from .limits import KERNELS, Limits

# Of one shape of weights: number of rows -> kernel -> time. Kernels may be missing.
Times = Mapping[int, Mapping[str, float]]


def relative_times(shapes: Iterable[Times]) -> dict[int, dict[str, float]]:
    """Time over the time of the fastest kernel, summed over shapes, for each number of rows and
    each of `KERNELS`; infinite where a shape has none. All shapes have the same numbers of rows."""
    found: dict[int, dict[str, float]] = {}
    for times in shapes:
        for rows, by_kernel in times.items():
            sums = found.setdefault(rows, dict.fromkeys(KERNELS, 0.0))
            best = min(by_kernel.values())
            for kernel in KERNELS:
                sums[kernel] += by_kernel.get(kernel, inf) / best
    return found


def kernel_for(limits: Limits, rows: int) -> str:
    """The kernel that takes a product of so many rows."""
    ends = (limits.matvec, limits.multirow, limits.tile, inf)
    return next(kernel for kernel, end in zip(KERNELS, ends, strict=True) if rows <= end)


def cost(limits: Limits, relative: Mapping[int, Mapping[str, float]]) -> float:
    """What limits make of relative times, summed over the numbers of rows."""
    return sum(by_kernel[kernel_for(limits, rows)] for rows, by_kernel in relative.items())


def best_limits(relative: Mapping[int, Mapping[str, float]]) -> Limits:
    """The limits of least cost, each a number of rows that was measured, or 0.

    Between two measured numbers the kernel of the larger one is taken.
    """
    ends = sorted({0, *relative})
    return min(
        (Limits(*numbers) for numbers in combinations_with_replacement(ends, 3)),
        key=lambda limits: cost(limits, relative),
    )
