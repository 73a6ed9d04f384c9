"""Host memory to a device in a circle, each piece ahead of its use."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ..gguf.link import Link, Mark
from .plan import BUFFERS


class WeightStream:
    """Pieces of host memory that are used on the device one after the other, again and again.

    While one piece is computed from, the next is copied into the other buffer. The host waits for
    neither: a piece is computed from after its copy, and copied over after it was computed from.
    """

    def __init__(self, link: Link, pieces: Sequence[Tensor], buffers: int = BUFFERS) -> None:
        """Queue the copies of the first pieces.

        Args:
            link: the way to the device.
            pieces: uint8, in pinned memory of the host, in the order of their use.
            buffers: how many pieces are on the device at a time.
        """
        largest = max(piece.nbytes for piece in pieces)
        self._link = link
        self._pieces = pieces
        self.buffers = [link.memory(largest) for _ in range(min(buffers, len(pieces)))]
        self._ready: dict[int, tuple[int, Mark]] = {}  # piece -> its buffer, when it is there
        self._restart(0)

    def take(self, index: int) -> int:
        """The number of the buffer with a piece; what is queued to be computed now waits for it.

        When that is queued, `done` must be called.
        """
        if index not in self._ready:  # a pass was broken off, and this is another one
            self._restart(index)
        buffer, ready = self._ready[index]
        self._link.compute_waits(ready)
        return buffer

    def done(self, index: int) -> None:
        """All that reads a piece is queued: the next one that is nowhere yet takes its place."""
        coming = (index + len(self.buffers)) % len(self._pieces)
        if index in self._ready and coming not in self._ready:
            buffer, _ = self._ready.pop(index)
            self._copy(coming, buffer)

    def forget(self) -> None:
        """The host's memory has changed: what is on the device is not used any more."""
        self._ready.clear()

    def _restart(self, first: int) -> None:
        """Fill the buffers from a piece on, whatever they hold."""
        self._ready.clear()
        for buffer in range(len(self.buffers)):
            self._copy((first + buffer) % len(self._pieces), buffer)

    def _copy(self, index: int, buffer: int) -> None:
        piece = self._pieces[index]
        self._link.copies_wait(self._link.computed())
        self._link.copy(self.buffers[buffer][: piece.nbytes], piece)
        self._ready[index] = buffer, self._link.copied()
