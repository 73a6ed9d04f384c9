"""Offsets in an arena: no two buffers that are in use together share a byte."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rocmforge_torch.fx.lifetimes import (
    ALIGNMENT,
    Lifetime,
    aligned,
    arena_size,
    assign_offsets,
    peak_size,
)


@st.composite
def lifetimes(draw: st.DrawFn) -> Lifetime:
    first = draw(st.integers(0, 30))
    size = draw(st.one_of(st.integers(1, 5000), st.sampled_from([512, 1024, 4096, 1 << 20])))
    return Lifetime(size, first, first + draw(st.integers(0, 10)))


def bytes_in_use(buffers: list[Lifetime], step: int) -> int:
    return sum(-(-b.size // 512) * 512 for b in buffers if b.first <= step <= b.last)


@given(st.lists(lifetimes(), max_size=40))
def test_nothing_overlaps(buffers: list[Lifetime]) -> None:
    offsets = assign_offsets(buffers)
    spans = [(o, o + b.size) for o, b in zip(offsets, buffers, strict=True)]
    assert all(o % ALIGNMENT == 0 for o in offsets)
    for i, (start, end) in enumerate(spans):
        for j in range(i):
            apart = end <= spans[j][0] or spans[j][1] <= start
            both = set(range(buffers[i].first, buffers[i].last + 1)) & set(
                range(buffers[j].first, buffers[j].last + 1)
            )
            assert apart or not both
    size, peak = arena_size(buffers, offsets), peak_size(buffers)
    assert peak == max((bytes_in_use(buffers, step) for step in range(42)), default=0)
    assert peak <= size <= sum(aligned(b.size) for b in buffers)
    assert size == max((aligned(end) for _, end in spans), default=0)


@given(st.integers(1, 1000), st.integers(1, 60))
def test_a_chain_takes_two_buffers(size: int, length: int) -> None:
    buffers = [Lifetime(size, i, i + 1) for i in range(length)]
    assert arena_size(buffers, assign_offsets(buffers)) == min(length, 2) * aligned(size)


def test_the_smallest_gap_that_fits_is_taken() -> None:
    k = 1024
    always = [Lifetime(8 * k, 0, 9), Lifetime(5 * k, 0, 9), Lifetime(2 * k + 512, 0, 9)]
    gaps = [Lifetime(6 * k, 0, 4), Lifetime(3 * k, 0, 4)]  # free from step 5 on
    late = Lifetime(2 * k, 5, 9)
    buffers = [*always, *gaps, late]
    offsets = assign_offsets(buffers)
    assert offsets[5] == offsets[4] > offsets[3]
    assert arena_size(buffers, offsets) == 24 * k + 512
