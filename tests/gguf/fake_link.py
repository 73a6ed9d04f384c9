"""A device without a device: copies are done late, and every hazard is an assertion."""

from __future__ import annotations

import random
import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


class Boom(RuntimeError):
    """The failure that a test asked for."""


@dataclass(frozen=True)
class FakeMark:
    """A point in one of the two queues: after its first `count` entries."""

    link: FakeLink
    queue: str
    count: int

    def synchronize(self) -> None:
        self.link.run_copies(self.count if self.queue == "copies" else 0)


def span(tensor: Tensor) -> tuple[int, int]:
    return tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes


class FakeLink:
    """Copies wait in a queue until somebody needs them, or until chance does some.

    What computes runs at once, so it must have waited for the copies that it reads: `read` checks
    that nothing is pending there. A copy over memory that was read must have waited for that.
    """

    def __init__(self, seed: int = 0, fail_at: int | None = None) -> None:
        self.random = random.Random(seed)
        self.fail_at = fail_at
        self.calls = 0
        self.lock = threading.RLock()
        self.pending: list[Callable[[], None]] = []
        self.targets: list[tuple[int, int]] = []
        self.done_copies = 0
        self.reads: list[tuple[int, int]] = []  # memory that was computed from
        self.waited_reads = 0  # copies from now on come after so many of them
        self.host: list[weakref.ref[Tensor]] = []
        self.device: list[weakref.ref[Tensor]] = []
        self.device_bytes = 0
        self.abandoned = False

    def step(self) -> None:
        """One call of the device, which may be the one that fails."""
        with self.lock:
            self.calls += 1
            if self.calls == self.fail_at:
                raise Boom("the device is gone\nand with it the rest")
            if self.pending and self.random.random() < 0.3:
                self.run_copies(self.done_copies + self.random.randint(1, len(self.pending)))

    def run_copies(self, until: int) -> None:
        with self.lock:
            while self.done_copies < until:
                self.pending.pop(0)()
                self.targets.pop(0)
                self.done_copies += 1

    def reached(self, mark: FakeMark) -> bool:
        return mark.queue == "computed" or self.done_copies >= mark.count

    def host_buffer(self, nbytes: int) -> Tensor:
        self.step()
        made = torch.full((nbytes,), 0xA5, dtype=torch.uint8)
        self.host.append(weakref.ref(made))
        return made

    def memory(self, nbytes: int) -> Tensor:
        self.step()
        made = torch.full((nbytes,), 0x5A, dtype=torch.uint8)
        self.device.append(weakref.ref(made))
        self.device_bytes += nbytes
        return made

    def reserve(self, nbytes: int) -> None:
        self.reserved = nbytes

    def copy(self, target: Tensor, source: Tensor) -> None:
        self.step()
        begin, end = span(target)
        for first, last in self.reads[self.waited_reads :]:
            assert end <= first or last <= begin, "a copy overtakes what reads the memory"
        with self.lock:
            self.pending.append(lambda: target.copy_(source))
            self.targets.append((begin, end))

    def read(self, tensor: Tensor) -> None:
        """Something is computed from `tensor` now."""
        begin, end = span(tensor)
        with self.lock:
            for first, last in self.targets:
                assert last <= begin or end <= first, "computed before its copy was done"
        self.reads.append((begin, end))

    def copied(self) -> FakeMark:
        self.step()
        with self.lock:
            return FakeMark(self, "copies", self.done_copies + len(self.pending))

    def computed(self) -> FakeMark:
        self.step()
        return FakeMark(self, "computed", len(self.reads))

    def copies_wait(self, mark: FakeMark) -> None:
        self.step()
        assert mark.queue == "computed"
        self.waited_reads = max(self.waited_reads, mark.count)

    def compute_waits(self, mark: FakeMark) -> None:
        self.step()
        assert mark.queue == "copies"
        self.run_copies(mark.count)

    def abandon(self) -> None:
        self.abandoned = True
        self.run_copies(self.done_copies + len(self.pending))

    def alive(self) -> list[Tensor]:
        """Memory of either side that somebody still holds."""
        return [t for t in (ref() for ref in (*self.host, *self.device)) if t is not None]
