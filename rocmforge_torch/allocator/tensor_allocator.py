"""A pooled allocator for tensors: blocks by size class, reused as soon as nobody can see them.

PyTorch's caching allocator serves every op; this one serves what is planned ahead (the memory plan
of rocmforge_torch.fx, workspaces, outputs that are written in place), counts what it does, and can
be emptied at once. A block returns to its pool when the last tensor or view over it is gone, on
whatever thread that happens.
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from rocmforge_torch.allocator.dlpack import bytes_at
from rocmforge_torch.allocator.pools import (
    GRANULE,
    MAX_SMALL,
    MIN_BLOCK,
    Block,
    BuddyPool,
    GranulePool,
    rounded,
)


@dataclass
class AllocatorStats:
    """Counters since the allocator was made or reset.

    Attributes:
        requests: tensors asked for.
        hits: requests that needed no new slab.
        slabs: slabs taken from PyTorch.
        bytes_live: bytes of blocks in use; bytes_requested: what was asked of them.
        bytes_reserved: bytes of all slabs. bytes_peak: the most that bytes_live has been.
    """

    requests: int = 0
    hits: int = 0
    slabs: int = 0
    bytes_live: int = 0
    bytes_requested: int = 0
    bytes_reserved: int = 0
    bytes_peak: int = 0
    largest_free: int = 0

    @property
    def fragmentation(self) -> float:
        """1 - largest free block / free bytes: 0 when all that is free is in one piece."""
        free = self.bytes_reserved - self.bytes_live
        return 1 - self.largest_free / free if free else 0.0


class _Pool:
    """The blocks of one device and stream. Work on a stream is in order, so that a block freed on
    the host can be handed out for later work of the same stream at once."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.slabs: list[Tensor] = []
        self.large = GranulePool()
        self.small = BuddyPool(self.large)

    def take(self, size: int) -> tuple[Block, bool]:
        """A block and whether the pool had it."""
        pool = self.small if size <= MAX_SMALL else self.large
        block = pool.take(size)
        if block is not None:
            return block, True
        slab = max(size, GRANULE)
        # GPU memory comes aligned to MIN_BLOCK, the host's does not.
        extra = MIN_BLOCK if self.device.type == "cpu" else 0
        memory = torch.empty(slab + extra, dtype=torch.uint8, device=self.device)
        start = -memory.data_ptr() % MIN_BLOCK
        self.slabs.append(memory[start : start + slab])
        self.large.give(Block(len(self.slabs) - 1, 0, slab))
        block = pool.take(size)
        assert block is not None
        return block, False

    def give(self, block: Block) -> None:
        (self.small if block.size <= MAX_SMALL else self.large).give(block)

    def largest_free(self) -> int:
        return max((b.size for b in [*self.large.free, *self.small.free]), default=0)


class TensorAllocator:
    """Hands out tensors from pools of free blocks, one pool for each device and stream."""

    def __init__(self) -> None:
        self._pools: dict[tuple[torch.device, int], _Pool] = {}
        self._live: dict[int, str] = {}
        self._stats = AllocatorStats()
        self._count = 0
        # Deleters run inside any allocation of Python objects, so also while the lock is held.
        self._lock = threading.RLock()
        self._returned: list[tuple[int, _Pool, Block, int]] = []

    def empty(
        self,
        shape: tuple[int, ...] | torch.Size,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        name: str = "",
    ) -> Tensor:
        """An uninitialised contiguous tensor.

        Args:
            shape: its sizes.
            dtype: its element type.
            device: where; on a GPU the block belongs to the device's current stream.
            name: how messages call it.

        Raises:
            ValueError: a negative size.
            torch.OutOfMemoryError: the device is full.
        """
        if any(n < 0 for n in shape):
            raise ValueError(f"TensorAllocator.empty: shape must not be negative, got {shape}")
        device = _resolved(torch.device(device))
        nbytes = math.prod(shape) * dtype.itemsize
        with self._lock:
            self._collect()
            pool = self._pool(device)
            size = rounded(nbytes)
            block, hit = pool.take(size)
            self._count += 1
            number = self._count
            self._live[number] = name or f"tensor {number} {tuple(shape)} {dtype}"
            self._took(pool, size, nbytes, hit)
        address = pool.slabs[block.slab].data_ptr() + block.offset

        def on_free() -> None:
            self._returned.append((number, pool, block, nbytes))

        flat = bytes_at(address, nbytes, device, on_free)
        return flat.view(dtype).view(shape)

    def reset(self) -> None:
        """Gives every slab back to PyTorch and starts the counters anew.

        Raises:
            RuntimeError: a tensor is still in use, which is named; nothing has been freed then.
        """
        with self._lock:
            self._collect()
            if self._live:
                names = list(self._live.values())
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                raise RuntimeError(
                    f"reset_allocator: still in use: {', '.join(names[:3])}{more}. "
                    "Drop every tensor of the allocator, and views of them, first."
                )
            self._pools.clear()
            self._stats = AllocatorStats()

    def stats(self) -> AllocatorStats:
        with self._lock:
            self._collect()
            pools = self._pools.values()
            self._stats.largest_free = max((p.largest_free() for p in pools), default=0)
            return AllocatorStats(**vars(self._stats))

    def _pool(self, device: torch.device) -> _Pool:
        stream = 0
        if device.type == "cuda":
            stream = torch.cuda.current_stream(device).cuda_stream
        return self._pools.setdefault((device, stream), _Pool(device))

    def _collect(self) -> None:
        # list.append and pop are atomic: a deleter may run between any two of them.
        while self._returned:
            number, pool, block, nbytes = self._returned.pop()
            pool.give(block)
            del self._live[number]
            self._stats.bytes_live -= block.size
            self._stats.bytes_requested -= nbytes

    def _took(self, pool: _Pool, size: int, nbytes: int, hit: bool) -> None:
        stats = self._stats
        stats.requests += 1
        stats.hits += hit
        if not hit:
            stats.slabs += 1
            stats.bytes_reserved += pool.slabs[-1].nbytes
        stats.bytes_live += size
        stats.bytes_requested += nbytes
        stats.bytes_peak = max(stats.bytes_peak, stats.bytes_live)


def _resolved(device: torch.device) -> torch.device:
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


_default = TensorAllocator()
_current: ContextVar[TensorAllocator] = ContextVar("allocator", default=_default)


def current_allocator() -> TensorAllocator:
    """The allocator of the innermost `with_allocator`, else the process's own."""
    return _current.get()


@contextlib.contextmanager
def with_allocator(allocator: TensorAllocator) -> Iterator[TensorAllocator]:
    """Plans and workspaces inside the block take their memory from `allocator`."""
    token = _current.set(allocator)
    try:
        yield allocator
    finally:
        _current.reset(token)


def reset_allocator() -> None:
    """TensorAllocator.reset of the current allocator."""
    current_allocator().reset()


def allocator_stats() -> AllocatorStats:
    """TensorAllocator.stats of the current allocator."""
    return current_allocator().stats()
