"""The pools' bookkeeping under random requests, against a map of every byte."""

from __future__ import annotations

import gc
import threading
from typing import Any

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    precondition,
    rule,
)
from torch import Tensor

from rocmforge_torch.allocator import TensorAllocator
from rocmforge_torch.allocator.pools import (
    GRANULE,
    MAX_SMALL,
    MIN_BLOCK,
    Block,
    BuddyPool,
    GranulePool,
    rounded,
)

REQUESTS = st.one_of(
    st.integers(0, 3000),
    st.sampled_from([MAX_SMALL // 2, MAX_SMALL, MAX_SMALL + 1, GRANULE, 2 * GRANULE + 1]),
)


class Pools(RuleBasedStateMachine):
    """Two pools over slabs of several granules, as an allocator keeps them."""

    blocks = Bundle("blocks")

    def __init__(self) -> None:
        super().__init__()
        self.large = GranulePool()
        self.small = BuddyPool(self.large)
        self.slabs: list[int] = []
        self.live: set[Block] = set()

    @rule(granules=st.integers(1, 4))
    def add_slab(self, granules: int) -> None:
        self.large.give(Block(len(self.slabs), 0, granules * GRANULE))
        self.slabs.append(granules * GRANULE)

    @rule(target=blocks, nbytes=REQUESTS)
    def take(self, nbytes: int) -> Block | None:
        size = rounded(nbytes)
        pool = self.small if size <= MAX_SMALL else self.large
        largest = max((b.size for b in [*self.large.free, *self.small.free]), default=0)
        block = pool.take(size)
        if block is None:  # only if nothing that is free was large enough
            assert largest < size
            return None
        assert block.size == size
        assert block.offset % (size if size <= MAX_SMALL else GRANULE) == 0
        self.live.add(block)
        return block

    @rule(block=consumes(blocks))
    def give(self, block: Block | None) -> None:
        if block is not None:
            self.live.remove(block)
            (self.small if block.size <= MAX_SMALL else self.large).give(block)

    @invariant()
    def every_byte_is_live_or_free_once(self) -> None:
        spans: dict[int, list[tuple[int, int]]] = {n: [] for n in range(len(self.slabs))}
        for block in [*self.live, *self.large.free, *self.small.free]:
            spans[block.slab].append((block.offset, block.offset + block.size))
        for slab, size in enumerate(self.slabs):
            ends = [0, *(end for _, end in sorted(spans[slab]))]
            starts = [*(start for start, _ in sorted(spans[slab])), size]
            assert starts == ends

    @invariant()
    def neighbours_are_merged(self) -> None:
        free = {(b.slab, b.offset): b for b in self.large.free}
        assert not any((b.slab, b.offset + b.size) in free for b in free.values())
        for block in self.small.free:
            inside = block.offset % GRANULE
            buddy = block.offset - inside + (inside ^ block.size)
            assert Block(block.slab, buddy, block.size) not in self.small.free

    @precondition(lambda self: not self.live)
    @invariant()
    def all_is_whole_again(self) -> None:
        assert self.small.free == []
        assert sorted(b.size for b in self.large.free) == sorted(self.slabs)


class Tensors(RuleBasedStateMachine):
    """An allocator's tensors, views of them, threads that drop them, and resets."""

    tensors = Bundle("tensors")

    def __init__(self) -> None:
        super().__init__()
        self.allocator = TensorAllocator()
        self.requests = self.requests_before_reset = 0
        self.peak = 0
        self.held: dict[int, tuple[Tensor, int, int]] = {}  # key -> tensor, its fill, block's bytes

    def _hold(self, key: int, tensor: Tensor, fill: int, size: int) -> int:
        self.held[key] = tensor, fill, size
        return key

    @rule(target=tensors, nbytes=REQUESTS)
    def take(self, nbytes: int) -> int:
        self.requests += 1
        key = self.requests
        tensor = self.allocator.empty((nbytes,), torch.uint8, name=f"t{key}").fill_(key % 251)
        self.peak = max(self.peak, self._live() + rounded(nbytes))
        return self._hold(key, tensor, key % 251, rounded(nbytes))

    @rule(key=tensors)
    def keep_only_a_view(self, key: int) -> None:
        if key in self.held:
            tensor, fill, size = self.held[key]
            self._hold(key, tensor[tensor.numel() // 2 :], fill, size)

    @rule(key=consumes(tensors))
    def drop(self, key: int) -> None:
        self.held.pop(key, None)

    @rule(key=consumes(tensors))
    def drop_on_a_thread(self, key: int) -> None:
        thread = threading.Thread(target=lambda: self.held.pop(key, None))
        thread.start()
        thread.join()

    @rule()
    def reset(self) -> None:
        if self.held:
            names = "|".join(rf"t{key}\b" for key in self.held)
            with pytest.raises(RuntimeError, match=names):
                self.allocator.reset()
        else:
            self.allocator.reset()
            assert vars(self.allocator.stats()) == vars(TensorAllocator().stats())
            self.requests_before_reset, self.peak = self.requests, 0

    def _live(self) -> int:
        return sum(size for _, _, size in self.held.values())

    @invariant()
    def values_stay(self) -> None:
        assert all((tensor == fill).all() for tensor, fill, _ in self.held.values())

    @invariant()
    def counters_are_right(self) -> None:
        stats = self.allocator.stats()
        assert stats.requests == self.requests - self.requests_before_reset
        assert stats.requests - stats.hits == stats.slabs
        assert stats.bytes_live == self._live()
        assert stats.bytes_peak == self.peak
        assert stats.bytes_live <= stats.bytes_reserved
        assert 0 <= stats.fragmentation <= 1


TestPools = Pools.TestCase
TestPools.settings = settings(stateful_step_count=40, deadline=None)
TestTensors = Tensors.TestCase
TestTensors.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)


def test_threads_with_allocators_of_their_own() -> None:
    """Every tensor's deleter reaches its own allocator, whoever makes tensors at the same time."""
    allocators = [TensorAllocator() for _ in range(4)]
    failures: list[Any] = []

    def work(allocator: TensorAllocator, number: int) -> None:
        for size in range(1, 400):
            tensor = allocator.empty((size % 50, 16), torch.uint8).fill_(number)
            if not (tensor == number).all():
                failures.append(number)

    jobs = [(allocators[n % 4], n) for n in range(8)]
    threads = [threading.Thread(target=work, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    assert failures == []
    assert [a.stats().bytes_live for a in allocators] == [0] * 4
    assert [a.stats().requests for a in allocators] == [798] * 4


def test_blocks_have_the_smallest_size() -> None:
    assert [rounded(n) for n in (0, 1, 512, 513, MAX_SMALL, MAX_SMALL + 1, GRANULE + 1)] == [
        MIN_BLOCK,
        MIN_BLOCK,
        512,
        1024,
        MAX_SMALL,
        GRANULE,
        2 * GRANULE,
    ]
