"""Times on a GPU by graph replay, and the card's own floors: bandwidth and matrix rate.

Every figure is a median of repeats of one graph, so that neither Python nor the launches are what
is measured. Who measures weights from memory hands over calls on enough of them to overflow the
cache, in turn.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from rocmforge_torch import extension

Call = Callable[[], object]
GRAPH_SECONDS = 0.005  # about what a graph takes, unless there are fewer calls
FEWEST_REPEATS = 5
MOST_REPEATS = 50


def no_gpu() -> str | None:
    """Why nothing can be measured here, in one sentence."""
    if not torch.cuda.is_available():
        return (
            "There is no GPU that torch can use, and this is about GPU kernels; "
            "benchmarks/cpu_matmul.py measures those of the CPU."
        )
    if "gpu" not in extension.loaded():
        return "The GPU kernels are not built; `rocmforge doctor` says what is missing."
    return None


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


@dataclass(frozen=True)
class Floors:
    """What the card does at best: bytes and operations per second."""

    read: float  # bytes/s, reading only
    read_by: str  # what reached it
    copy: float  # bytes/s, read and written
    matrix: float  # bf16 operations/s, 2 per multiplication


def measure_floors(timer: Timer) -> Floors:
    read, read_by, copy = _bandwidth(timer)
    a, b = (torch.randn(8192, 8192, device="cuda").bfloat16() for _ in range(2))
    matrix = 2 * 8192**3 / timer.microseconds([lambda: a @ b]) * 1e6
    return Floors(read, read_by, copy, matrix)


def _bandwidth(timer: Timer) -> tuple[float, str, float]:
    """Bytes/s read and how, and copied."""
    size = 2 << 30
    words = torch.randn(size // 4, device="cuda")
    readers: dict[str, Call] = {
        "sum of 2 GiB of float32": lambda: words.sum(),
        "sums of rows of 2 GiB of float32": lambda: words.view(-1, 1 << 18).sum(1),
        "largest of 2 GiB of float32": lambda: words.amax(),
    }
    rates = {name: size / timer.microseconds([run]) * 1e6 for name, run in readers.items()}
    best = max(rates, key=rates.__getitem__)
    half = size // 8  # elements: as much is read as written
    copy = size / timer.microseconds([lambda: words[:half].copy_(words[half:])]) * 1e6
    return rates[best], best, copy
