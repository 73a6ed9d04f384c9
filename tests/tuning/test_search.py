"""The limits that are found are those of least time."""

from __future__ import annotations

from itertools import combinations_with_replacement
from math import inf

from hypothesis import given
from hypothesis import strategies as st

from rocmforge_torch.tuning.limits import DEFAULT, KERNELS, Limits
from rocmforge_torch.tuning.measure import CANDIDATES, ROWS, trials
from rocmforge_torch.tuning.search import (
    Times,
    best_limits,
    cost,
    kernel_for,
    relative_times,
)

TIMES = st.floats(0.5, 1000)


@st.composite
def measured(draw: st.DrawFn) -> list[Times]:
    """Times of up to three shapes at up to seven numbers of rows; few rows lack the last kernel,
    and many the first ones."""
    rows = sorted(draw(st.sets(st.integers(1, 600), min_size=1, max_size=7)))
    lacking = sorted(draw(st.lists(st.integers(0, len(rows)), min_size=3, max_size=3)))
    kernels = {
        m: [
            *(("matvec",) if i < lacking[1] else ()),
            *(("multirow",) if i < lacking[2] else ()),
            "tile",
            *(("expand, GEMM",) if i >= lacking[0] else ()),
        ]
        for i, m in enumerate(rows)
    }
    count = draw(st.integers(1, 3))
    return [{m: {kernel: draw(TIMES) for kernel in kernels[m]} for m in rows} for _ in range(count)]


def least(shapes: list[Times]) -> float:
    """By trying every way of giving kernels to numbers of rows, in their order."""
    rows = list(shapes[0])
    best = inf
    for chosen in combinations_with_replacement(KERNELS, len(rows)):
        total = 0.0
        for times in shapes:
            for m, kernel in zip(rows, chosen, strict=True):
                total += times[m].get(kernel, inf) / min(times[m].values())
        best = min(best, total)
    return best


@given(measured())
def test_no_other_limits_are_better(shapes: list[Times]) -> None:
    relative = relative_times(shapes)
    found = best_limits(relative)
    assert found.matvec <= found.multirow <= found.tile
    assert abs(cost(found, relative) - least(shapes)) <= 1e-9 * least(shapes)


@given(measured())
def test_limits_are_numbers_that_were_measured(shapes: list[Times]) -> None:
    found = best_limits(relative_times(shapes))
    assert {found.matvec, found.multirow, found.tile} <= {0, *shapes[0]}


def test_shapes_count_alike() -> None:
    # Where the large shape gains 10 us of 100 and the small one loses 3 of 10, the small one wins.
    large = {8: {"multirow": 100.0, "tile": 90.0}}
    small = {8: {"multirow": 10.0, "tile": 13.0}}
    assert kernel_for(best_limits(relative_times([large])), 8) == "tile"
    assert kernel_for(best_limits(relative_times([large, small])), 8) == "multirow"


def test_a_kernel_that_never_wins_is_never_taken() -> None:
    times = {m: {"matvec": 5.0 * m, "multirow": 99.0, "tile": 21.0, "expand, GEMM": 50.0}
             for m in (1, 2, 4, 8)}  # fmt: skip
    assert best_limits(relative_times([times])) == Limits(4, 4, 8)


def test_what_limits_mean() -> None:
    got = [kernel_for(DEFAULT, m) for m in (1, 2, 3, 16, 17, 128, 129, 1 << 20)]
    assert got == [kernel for kernel in KERNELS for _ in range(2)]
    assert kernel_for(Limits(0, 0, 0), 1) == "expand, GEMM"
    assert kernel_for(Limits(2, 2, 2), 3) == "expand, GEMM"


def test_every_number_of_rows_has_a_kernel_that_takes_all_shapes() -> None:
    found = trials(ROWS)
    assert {m for m, kernel in found if kernel == "tile"} == set(ROWS)
    for m, kernel in found:
        assert kernel_for(CANDIDATES[kernel].forced, m) == kernel
