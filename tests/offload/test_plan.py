"""Which layers are streamed: all that fit stay, spread evenly, and the plan says why."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rocmforge_torch.offload import plan_offload

SIZES = st.lists(st.integers(1, 1000), min_size=1, max_size=40)


@given(SIZES, st.integers(0, 1000), st.integers(0, 40_000))
def test_as_many_as_fit(layers: list[int], other: int, free: int) -> None:
    needed = min(
        plan.resident_bytes + plan.buffer_bytes
        for n in range(len(layers) + 1)
        for plan in [plan_offload(layers, other, gpu_layers=n)]
    )
    if free < needed:
        with pytest.raises(MemoryError, match=r"cuda has .* for weights"):
            plan_offload(layers, other, free=free)
        return
    plan = plan_offload(layers, other, free=free)
    assert plan.resident_bytes + plan.buffer_bytes <= free
    assert plan.resident_bytes + plan.streamed_bytes == other + sum(layers)
    more = len(layers) - len(plan.streamed) + 1
    if plan.streamed:
        larger = plan_offload(layers, other, gpu_layers=more)
        assert larger.resident_bytes + larger.buffer_bytes > free


@given(st.integers(1, 100), st.integers(0, 120))
def test_as_many_as_asked_for_and_evenly(count: int, stay: int) -> None:
    streamed = plan_offload([1] * count, 0, gpu_layers=stay).streamed
    assert len(streamed) == max(count - stay, 0)
    gaps = [b - a for a, b in itertools.pairwise(streamed)]
    assert all(gap > 0 for gap in gaps)
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_what_it_says() -> None:
    gib = 1 << 30
    assert str(plan_offload([gib] * 8, 2 * gib, free=7 * gib)) == (
        "3 of 8 layers stay on cuda (5.00 GiB with embeddings and output), as 7.00 GiB are free "
        "for 10.00 GiB of weights; 5 are streamed from host memory (5.00 GiB a pass, through "
        "2.00 GiB of buffers): layers 0, 2-3, 5, 7"
    )
    assert str(plan_offload([gib] * 8, 2 * gib, free=10 * gib)) == (
        "all 8 layers stay on cuda (10.00 GiB)"
    )
    assert "as 2 layers were asked for" in str(plan_offload([gib] * 8, 0, gpu_layers=2))
    for wrong, complaint in (({"gpu_layers": -1}, "must be 0 or more, got -1"), ({}, "give free")):
        with pytest.raises(ValueError, match=complaint):
            plan_offload([1], 1, **wrong)
