"""Tokens on their way to the host: two buffers, so that a step can start before one is read."""

from __future__ import annotations

import threading

from torch import Tensor

from .device import GraphDevice, HostBuffer


class PendingTokens:
    """The tokens of one step, perhaps still being computed.

    Attributes:
        rows: the rows that decoded, in the order of the tokens.
    """

    def __init__(self, rows: tuple[int, ...], buffer: HostBuffer) -> None:
        self.rows = rows
        self._buffer = buffer
        self._tokens: list[int] | None = None
        self._lock = threading.Lock()

    def wait(self) -> list[int]:
        """The token of each row; waits for this step and for none that was started later."""
        with self._lock:
            if self._tokens is None:
                self._buffer.wait()
                self._tokens = self._buffer.numbers.tolist()[: len(self.rows)]
            return self._tokens


class TokenReader:
    """Reads tokens into two host buffers in turn."""

    def __init__(self, device: GraphDevice, size: int) -> None:
        """size: the most tokens of one step."""
        self._buffers = [device.host_buffer(size) for _ in range(2)]
        self._pending: list[PendingTokens | None] = [None, None]
        self._next = 0

    def read(self, chosen: Tensor, rows: tuple[int, ...]) -> PendingTokens:
        """Start reading; the tokens of the step before the last one are taken out first."""
        turn = self._next
        self._next = 1 - turn
        earlier = self._pending[turn]
        if earlier is not None:
            earlier.wait()
        buffer = self._buffers[turn]
        buffer.start(chosen)
        pending = self._pending[turn] = PendingTokens(rows, buffer)
        return pending

    def finish(self) -> None:
        """Wait for every step that was started."""
        for pending in self._pending:
            if pending is not None:
                pending.wait()
