"""Times on a GPU by graph replay.

Every figure is a median of repeats of one graph, so that neither Python nor the launches are what
is measured. Who measures weights from memory hands over calls on enough of them to overflow the
cache, in turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch

Call = Callable[[], object]
GRAPH_SECONDS = 0.005  # about what a graph takes, unless there are fewer calls
FEWEST_REPEATS = 5
MOST_REPEATS = 50


@contextmanager
def _timed() -> Iterator[Callable[[], float]]:
    """Gives a function that waits and returns the seconds since."""
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()

    def seconds() -> float:
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3

    yield seconds


class Timer:
    """Measures calls by graph replay, on a stream of its own."""

    def __init__(self, seconds: float) -> None:
        """seconds: of repeats, for a figure."""
        self.seconds = seconds
        self._stream = torch.cuda.Stream()

    def microseconds(self, calls: Sequence[Call], at_least: int = 1) -> float:
        """The median time of a call, when the calls run one after the other.

        A graph holds the first of them, and `at_least` so many, in about GRAPH_SECONDS.
        """
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            calls[0]()
            with _timed() as seconds:
                calls[-1]()
                estimate = seconds()
            count = max(at_least, int(GRAPH_SECONDS / max(estimate, 1e-6)))
            chosen = calls[: max(count, 1)]
            graph = torch.cuda.CUDAGraph()
            graph.capture_begin()
            try:
                for call in chosen:
                    call()
            finally:
                graph.capture_end()
            graph.replay()
            times: list[float] = []
            while len(times) < FEWEST_REPEATS or (
                sum(times) < self.seconds and len(times) < MOST_REPEATS
            ):
                with _timed() as seconds:
                    graph.replay()
                    times.append(seconds())
        torch.cuda.current_stream().wait_stream(self._stream)
        return statistics.median(times) / len(chosen) * 1e6
