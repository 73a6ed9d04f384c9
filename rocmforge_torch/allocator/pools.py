"""Where free memory is kept: powers of two up to 1 MiB, multiples of 2 MiB above.

Pure bookkeeping on numbers; rocmforge_torch.allocator turns it into tensors.
"""

from __future__ import annotations

import bisect
from dataclasses import dataclass, field

MIN_BLOCK = 512  # bytes; every block is aligned to it
MAX_SMALL = 1 << 20
GRANULE = 2 << 20


@dataclass(frozen=True, order=True)
class Block:
    """`size` bytes at `offset` of slab number `slab`."""

    slab: int
    offset: int
    size: int


def rounded(nbytes: int) -> int:
    """Bytes that a request takes."""
    if nbytes <= MAX_SMALL:
        return max(MIN_BLOCK, 1 << (nbytes - 1).bit_length()) if nbytes > 1 else MIN_BLOCK
    return -(-nbytes // GRANULE) * GRANULE


@dataclass
class GranulePool:
    """Blocks of whole granules: best fit, split on the way out, merged with neighbours again."""

    _by_size: list[tuple[int, Block]] = field(default_factory=list)
    _by_start: dict[tuple[int, int], Block] = field(default_factory=dict)
    _by_end: dict[tuple[int, int], Block] = field(default_factory=dict)

    def take(self, size: int) -> Block | None:
        """The smallest free block that fits, cut to `size`; None if there is none."""
        at = bisect.bisect_left(self._by_size, (size, Block(-1, -1, -1)))
        if at == len(self._by_size):
            return None
        block = self._by_size[at][1]
        self._remove(block)
        if block.size > size:
            self._insert(Block(block.slab, block.offset + size, block.size - size))
        return Block(block.slab, block.offset, size)

    def give(self, block: Block) -> None:
        """Takes a block back, or the whole of a new slab."""
        before = self._by_end.get((block.slab, block.offset))
        after = self._by_start.get((block.slab, block.offset + block.size))
        for neighbour in (before, after):
            if neighbour is not None:
                self._remove(neighbour)
        start = before.offset if before else block.offset
        end = after.offset + after.size if after else block.offset + block.size
        self._insert(Block(block.slab, start, end - start))

    @property
    def free(self) -> list[Block]:
        return [block for _, block in self._by_size]

    def _insert(self, block: Block) -> None:
        bisect.insort(self._by_size, (block.size, block))
        self._by_start[block.slab, block.offset] = block
        self._by_end[block.slab, block.offset + block.size] = block

    def _remove(self, block: Block) -> None:
        del self._by_size[bisect.bisect_left(self._by_size, (block.size, block))]
        del self._by_start[block.slab, block.offset]
        del self._by_end[block.slab, block.offset + block.size]


@dataclass
class BuddyPool:
    """Blocks of powers of two inside granules: halves on the way out, buddies merge again."""

    granules: GranulePool
    _free: dict[int, set[Block]] = field(default_factory=dict)

    def take(self, size: int) -> Block | None:
        """A free block of `size` bytes; None if that takes a new slab."""
        have = size
        while have < GRANULE and not self._free.get(have):
            have *= 2
        if have < GRANULE:
            block = min(self._free[have])  # low addresses first keeps the rest whole
            self._free[have].remove(block)
        else:
            granule = self.granules.take(GRANULE)
            if granule is None:
                return None
            block = granule
        while block.size > size:
            half = block.size // 2
            self._free.setdefault(half, set()).add(Block(block.slab, block.offset + half, half))
            block = Block(block.slab, block.offset, half)
        return block

    def give(self, block: Block) -> None:
        while block.size < GRANULE:
            inside = block.offset % GRANULE
            buddy_at = block.offset - inside + (inside ^ block.size)
            buddy = Block(block.slab, buddy_at, block.size)
            if buddy not in self._free.get(block.size, ()):
                self._free.setdefault(block.size, set()).add(block)
                return
            self._free[block.size].remove(buddy)
            block = Block(block.slab, min(block.offset, buddy.offset), 2 * block.size)
        self.granules.give(block)

    @property
    def free(self) -> list[Block]:
        return [block for blocks in self._free.values() for block in blocks]
