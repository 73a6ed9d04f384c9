"""Buffers with lifetimes share one arena: which offset each gets.

Pure arithmetic; rocmforge_torch.fx.memory_plan applies it to graphs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rocmforge_torch.allocator.pools import MIN_BLOCK as ALIGNMENT


@dataclass(frozen=True)
class Lifetime:
    """`size` bytes in use from step `first` to step `last`, both included."""

    size: int
    first: int
    last: int

    def overlaps(self, other: Lifetime) -> bool:
        return self.first <= other.last and other.first <= self.last


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def assign_offsets(buffers: Sequence[Lifetime]) -> list[int]:
    """An offset for every buffer, so that no two that are in use together share a byte.

    Largest first, each into the smallest gap that fits between the buffers that are placed already
    and live at the same time. Offsets are multiples of ALIGNMENT. The problem is NP-hard; this is
    greedy-by-size of Pisarchyk and Lee, "Efficient Memory Management for Deep Neural Net
    Inference" (2020), which reaches the lower bound on most networks.
    """
    order = sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, buffers[i].first, i))
    offsets = [0] * len(buffers)
    placed: list[tuple[int, int, Lifetime]] = []  # start, end
    for i in order:
        size = aligned(buffers[i].size)
        taken = sorted((s, e) for s, e, other in placed if other.overlaps(buffers[i]))
        offsets[i] = _best_gap(taken, size)
        placed.append((offsets[i], offsets[i] + size, buffers[i]))
    return offsets


def _best_gap(taken: Sequence[tuple[int, int]], size: int) -> int:
    """The start of the smallest gap of `size` bytes between the intervals, else their end."""
    best: tuple[int, int] | None = None  # width, start
    end = 0
    for start, stop in taken:
        width = start - end
        if width >= size and (best is None or width < best[0]):
            best = width, end
        end = max(end, stop)
    return end if best is None else best[1]


def arena_size(buffers: Sequence[Lifetime], offsets: Sequence[int]) -> int:
    return max((o + aligned(b.size) for b, o in zip(buffers, offsets, strict=True)), default=0)


def peak_size(buffers: Sequence[Lifetime]) -> int:
    """Bytes in use at the busiest step: no arrangement can do with less."""
    changes: list[tuple[int, int]] = []
    for buffer in buffers:
        size = aligned(buffer.size)
        changes += [(buffer.first, size), (buffer.last + 1, -size)]
    peak = live = 0
    for _, change in sorted(changes):  # at one step, what ended goes first
        live += change
        peak = max(peak, live)
    return peak
