"""Tokens on their way to the host, which every step sends, so that the next can start meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .device import GraphDevice, HostEvent
from .state import RING, DecodeState


class PendingTokens:
    """The tokens of one step, perhaps still being computed.

    Attributes:
        rows: the rows that decoded, in the order of the tokens.
    """

    def __init__(
        self, rows: tuple[int, ...], numbers: npt.NDArray[np.int64], done: HostEvent
    ) -> None:
        """numbers: where the tokens are once the event is passed."""
        self.rows = rows
        self._numbers = numbers
        self._done = done
        self._tokens: list[int] | None = None
        self._lock = threading.Lock()

    def wait(self) -> list[int]:
        """The token of each row; waits for this step and for none that was started later."""
        with self._lock:
            if self._tokens is None:
                self._done.synchronize()
                self._tokens = self._numbers[: len(self.rows)].tolist()
            return self._tokens


class TokenReader:
    """Reads tokens out of the host's copy of a state's ring.

    Every step writes one row of the ring and then copies all of it, a copy that can be captured:
    it is the same for every step. The row of step n holds its tokens from its end until step
    n + RING starts; steps in between copy the very same bytes over it, which a reader does not
    notice. So the host may have RING steps under way, and takes out the tokens of step n before it
    starts step n + RING.

    Attributes:
        host: int64 [RING, R], the copy.
    """

    def __init__(self, device: GraphDevice, state: DecodeState) -> None:
        self._pending: list[PendingTokens | None] = [None] * RING
        self._done = [device.event() for _ in range(RING)]
        self._state = state  # the cache, too, is written to until the last step is over
        self.host = device.on_host(state.ring)
        self._numbers = [*self.host.numpy()]
        self._turn = 0  # as the state's
        state.turn.zero_()

    def send(self) -> None:
        """Part of every step: copy the ring to the host."""
        self.host.copy_(self._state.ring, non_blocking=True)

    def read(self, step: Callable[[], object], rows: tuple[int, ...]) -> PendingTokens:
        """Start a step, and reading its tokens."""
        turn = self._turn
        earlier = self._pending[turn]
        if earlier is not None:
            earlier.wait()
        step()
        done = self._done[turn]
        done.record()
        pending = self._pending[turn] = PendingTokens(rows, self._numbers[turn], done)
        self._turn = (turn + 1) % RING
        return pending

    def finish(self) -> None:
        """Wait for every step that was started, and take its tokens out."""
        for pending in self._pending:
            if pending is not None:
                pending.wait()

    def __del__(self) -> None:
        # PyTorch does not know what memory a replay uses, and would hand it out again. Locks are
        # left alone: this may be called while this very thread holds them.
        for pending in self._pending:
            if pending is not None and pending._tokens is None:
                pending._done.synchronize()
