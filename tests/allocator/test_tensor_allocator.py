"""The pooled allocator: no two live tensors share a byte, and nothing is lost."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rocmforge_torch.allocator import (
    TensorAllocator,
    allocator_stats,
    current_allocator,
    with_allocator,
)
from rocmforge_torch.allocator.pools import GRANULE, MAX_SMALL, MIN_BLOCK, rounded

SIZES = st.one_of(
    st.integers(0, 5000),
    st.sampled_from([MAX_SMALL, MAX_SMALL + 1, GRANULE + 1, 3 * GRANULE]),
)


@given(st.integers(0, 1 << 26))
def test_size_classes(nbytes: int) -> None:
    size = rounded(nbytes)
    assert size >= max(nbytes, MIN_BLOCK)
    if nbytes <= MAX_SMALL:
        assert size & (size - 1) == 0
        assert size < 2 * max(nbytes, MIN_BLOCK)
    else:
        assert size % GRANULE == 0
        assert size - nbytes < GRANULE


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.booleans(), SIZES, st.integers(0, 1000)), max_size=30))
def test_live_tensors_never_overlap(steps: list[tuple[bool, int, int]]) -> None:
    allocator = TensorAllocator()
    live: list[tuple[torch.Tensor, int]] = []
    for fill, (take, size, which) in enumerate(steps):
        if take or not live:
            tensor = allocator.empty((size,), torch.uint8)
            tensor.fill_(fill % 251)
            assert tensor.data_ptr() % MIN_BLOCK == 0 or size == 0
            # A view keeps the block, the first tensor need not.
            live.append((tensor[size // 3 :], fill % 251))
            del tensor
        else:
            live.pop(which % len(live))
        assert all((view == value).all() for view, value in live)
    stats = allocator.stats()
    assert stats.bytes_live <= stats.bytes_reserved
    live.clear()
    stats = allocator.stats()
    assert stats.bytes_live == stats.bytes_requested == 0
    # Everything has merged again: each slab is one free block.
    for pool in allocator._pools.values():
        assert pool.small.free == []
        assert sorted(b.size for b in pool.large.free) == sorted(s.nbytes for s in pool.slabs)


def test_a_freed_block_is_used_again() -> None:
    allocator = TensorAllocator()
    first = allocator.empty((1000,), torch.float32)
    address = first.data_ptr()
    del first
    again = allocator.empty((999,), torch.float32)
    assert again.data_ptr() == address
    stats = allocator.stats()
    assert (stats.requests, stats.hits, stats.slabs) == (2, 1, 1)
    assert stats.bytes_peak == 4096
    assert again.shape == (999,)


def test_reset_names_what_is_in_use_and_frees_nothing() -> None:
    allocator = TensorAllocator()
    kept = allocator.empty((7,), name="kv.0").fill_(3)
    view = kept[2:]
    del kept
    with pytest.raises(RuntimeError, match=r"still in use: kv\.0"):
        allocator.reset()
    assert (view == 3).all()
    del view
    allocator.reset()
    assert vars(allocator.stats()) == vars(TensorAllocator().stats())


def test_a_tensor_may_outlive_its_allocator() -> None:
    allocator = TensorAllocator()
    tensor = allocator.empty((64,)).fill_(5)
    del allocator
    assert (tensor == 5).all()


def test_with_allocator_nests() -> None:
    outer = current_allocator()
    with with_allocator(TensorAllocator()) as inner:
        assert current_allocator() is inner
        kept = inner.empty((1,))
        assert allocator_stats().requests == 1
    assert current_allocator() is outer
    assert kept.shape == (1,)


def test_threads_share_an_allocator() -> None:
    allocator = TensorAllocator()
    failures: list[int] = []

    def work(number: int) -> None:
        for size in range(1, 200):
            tensor = allocator.empty((size * 37,), torch.uint8).fill_(number)
            if not (tensor == number).all():
                failures.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert allocator.stats().bytes_live == 0


def test_negative_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="must not be negative"):
        TensorAllocator().empty((3, -1))
