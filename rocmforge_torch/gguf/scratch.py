"""Device memory that tensors pass through on their way to another form."""

from __future__ import annotations

from collections import deque

from torch import Tensor

from .link import Link, Mark

ALIGNMENT = 256  # of every region; any dtype and any kernel can start there


def round_up(nbytes: int) -> int:
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


class Scratch:
    """A ring of regions, each written by copies and then read by what is computed from it."""

    def __init__(self, link: Link, nbytes: int) -> None:
        """nbytes: a multiple of `ALIGNMENT`, at least the largest region."""
        self._link = link
        self._memory = link.memory(nbytes)
        self._regions: deque[tuple[int, int, Mark]] = deque()  # first byte, end, when it was read
        self._taken = (0, 0)

    def take(self, nbytes: int) -> Tensor:
        """uint8 [nbytes]; copies queued from now on wait until its last use was computed.

        The region before must have been given up with `done`.
        """
        start = self._taken[1]
        if start + nbytes > len(self._memory):
            start = 0
        end = start + round_up(nbytes)
        while any(first < end and start < last for first, last, _ in self._regions):
            self._link.copies_wait(self._regions.popleft()[2])
        self._taken = (start, end)
        return self._memory[start : start + nbytes]

    def done(self) -> None:
        """All that reads the region of the last `take` is queued."""
        self._regions.append((*self._taken, self._link.computed()))
