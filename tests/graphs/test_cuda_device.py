"""In which order CudaDevice asks for what, with a torch.cuda that only takes notes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from rocmforge_torch.allocator import current_allocator
from rocmforge_torch.graphs import device as device_module
from rocmforge_torch.graphs.device import CudaDevice


class Notes:
    """Stands for torch.cuda.

    Attributes:
        said: what was asked, in order.
        current: the current stream.
        streams_made: how often the current stream was asked for as an object.
    """

    streams_made = 0

    def __init__(self, broken: bool = False) -> None:
        self.said: list[str] = []
        self.current = Stream(self, "caller")
        self.broken = broken
        self.memory = self

    def _cuda_endAllocateToPool(self, device: int, pool: tuple[int, int]) -> None:
        assert (device, pool) == (0, (0, 7))
        self.said.append("end of the pool")

    def Stream(self, device: Any) -> Stream:
        return Stream(self, "capture")

    def current_stream(self, device: Any) -> Stream:
        self.streams_made += 1
        return self.current

    def raw_stream(self, index: int) -> int:
        assert index == 0
        return self.current.cuda_stream

    @contextlib.contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        before, self.current = self.current, stream
        try:
            yield
        finally:
            self.current = before

    @contextlib.contextmanager
    def device(self, device: Any) -> Iterator[None]:
        yield

    def graph_pool_handle(self) -> tuple[int, int]:
        return 0, 7

    def empty_cache(self) -> None:
        self.said.append("empty_cache")

    def memory_snapshot(self, pool: tuple[int, int]) -> list[dict[str, Any]]:
        return [
            {"segment_pool_id": id, "total_size": size}
            for id, size in (((0, 7), 100), ((0, 0), 10), ((0, 7), 1000))
        ]

    def CUDAGraph(self) -> Graph:
        return Graph(self)

    def Event(self) -> Event:
        return Event(self)


class Stream:
    def __init__(self, notes: Notes, name: str) -> None:
        self.notes, self.name = notes, name
        self.cuda_stream = id(self)

    def wait_stream(self, other: Stream) -> None:
        self.notes.said.append(f"{self.name} waits for {other.name}")

    def synchronize(self) -> None:
        self.notes.said.append(f"host waits for {self.name}")


class Event:
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def record(self, stream: Stream) -> None:
        self.notes.said.append(f"event on {stream.name}")

    def synchronize(self) -> None:
        self.notes.said.append("host waits for the event")


class Graph:
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def capture_begin(self, *, pool: tuple[int, int], capture_error_mode: str) -> None:
        assert pool == (0, 7)
        self.notes.said.append(f"begin {capture_error_mode} on {self.notes.current.name}")

    def capture_end(self) -> None:
        self.notes.said.append(f"end on {self.notes.current.name}")
        if self.notes.broken:
            raise RuntimeError("capture was invalidated")

    def replay(self) -> None:
        self.notes.said.append("replay")


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch) -> Notes:
    notes = Notes()
    monkeypatch.setattr("rocmforge_torch.graphs.device.torch.cuda", notes)
    raw = "_cuda_getCurrentRawStream"  # of builds for GPUs
    monkeypatch.setattr(torch._C, raw, notes.raw_stream, raising=False)
    monkeypatch.setattr("rocmforge_torch.graphs.device._ABANDONED", [])
    return notes


def test_capture(notes: Notes) -> None:
    device = CudaDevice(torch.device("cuda", 0))
    allocators = []

    def run() -> int:
        notes.said.append(f"run on {notes.current.name}")
        allocators.append(current_allocator())
        return len(allocators)

    replay, result = device.capture(run)
    assert notes.said == [
        "capture waits for caller",
        "run on capture",
        "host waits for capture",
        "empty_cache",
        "begin thread_local on capture",
        "run on capture",
        "end on capture",
        "caller waits for capture",
    ]
    assert result == 2
    assert allocators[0] is current_allocator()
    assert allocators[1] is not current_allocator(), "what a replay writes to is handed out again"
    replay()
    assert notes.said[-1] == "replay"
    assert device.pool_bytes() == 1100


@pytest.mark.parametrize("broken", [False, True])
def test_a_capture_that_fails_is_over(notes: Notes, broken: bool) -> None:
    """And the error is the one that was in its way, on the stream that was current before."""
    notes.broken = broken
    device = CudaDevice(torch.device("cuda", 0))
    runs = []

    def run() -> None:
        runs.append(1)
        if len(runs) == 2:
            raise RuntimeError("a read by the host")

    with pytest.raises(RuntimeError, match="a read by the host"):
        device.capture(run)
    end = ["end on capture", "end of the pool"] if broken else ["end on capture"]
    assert notes.said[notes.said.index("end on capture") :] == end
    assert len(device_module._ABANDONED) == broken
    assert notes.current.name == "caller"
    runs[:] = [1]
    with pytest.raises(RuntimeError, match="a read by the host"):
        device.capture(run)
    assert notes.said[-1] == "host waits for capture", "no capture after a failed warm-up"
    runs[:] = [1, 1]
    notes.broken = False
    device.capture(run)


def test_another_stream_waits_for_the_last(notes: Notes) -> None:
    device = CudaDevice(torch.device("cuda", 0))
    made = notes.streams_made
    device.order()
    device.order()
    assert notes.said == []
    assert notes.streams_made == made, "which takes PyTorch microseconds"
    with notes.stream(Stream(notes, "other")):
        device.order()
        device.order()
    device.order()
    assert notes.said == ["other waits for caller", "caller waits for other"]


def test_events_are_recorded_on_the_stream_of_the_step(notes: Notes) -> None:
    device = CudaDevice(torch.device("cuda", 0))
    event = device.event()
    for name in ("other", "third"):
        notes.said.clear()
        with notes.stream(Stream(notes, name)):
            device.order()
            made = notes.streams_made
            event.record()
        event.synchronize()
        assert notes.said[1:] == [f"event on {name}", "host waits for the event"]
        assert notes.streams_made == made


def test_tokens_are_copied_to_pinned_memory(notes: Notes, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(torch, "empty", lambda *args, **kwargs: asked.append((args, kwargs)))
    CudaDevice(torch.device("cuda", 0)).on_host(torch.zeros(2, 3, dtype=torch.int64))
    assert asked == [(((2, 3),), {"dtype": torch.int64, "pin_memory": True})]
