"""Stop texts: a stream is passed on, but nothing that is, or could become, a stop text."""

from __future__ import annotations

from collections.abc import Sequence


class StopFilter:
    """Passes text on until the first of some stop texts.

    Attributes:
        stopped: a stop text has come; nothing is passed on any more.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stopped = False
        self._stops = stops
        self._held = ""

    def push(self, text: str) -> str:
        """Add text; returns what is certain to stand before any stop text."""
        if self.stopped:
            return ""
        held = self._held + text
        end = min((at for at in map(held.find, self._stops) if at >= 0), default=None)
        if end is not None:
            self.stopped = True
            self._held = ""
            return held[:end]
        keep = max((_overlap(held, stop) for stop in self._stops), default=0)
        self._held = held[len(held) - keep :]
        return held[: len(held) - keep]

    def finish(self) -> str:
        """End the text; returns what was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
