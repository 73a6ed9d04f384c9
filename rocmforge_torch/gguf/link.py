"""The way from host memory to a device: two queues, one that copies and one that computes."""

from __future__ import annotations

import contextlib
from typing import Protocol

import torch
from torch import Tensor


class Mark(Protocol):
    """A point in a queue."""

    def synchronize(self) -> None:
        """Wait on the host until it is."""


class Link(Protocol):
    """What the loader needs of a device.

    Copies run in their own queue; what is computed from them (packing, casts, later the model) in
    another. Neither waits for the other unless told to, and the host waits for neither.
    """

    def host_buffer(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] in host memory that the device can copy from by itself."""

    def memory(self, nbytes: int) -> Tensor:
        """uint8 [nbytes] on the device, ordered with the computing queue."""

    def reserve(self, nbytes: int) -> None:
        """Have the device set aside so much memory at once, for `memory` and what is computed."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Queue a copy of a part of a host buffer to the device."""

    def copied(self) -> Mark:
        """The point after all copies queued so far."""

    def computed(self) -> Mark:
        """The point after all that was queued to be computed so far."""

    def copies_wait(self, mark: Mark) -> None:
        """Copies queued from now on start after `mark`."""

    def compute_waits(self, mark: Mark) -> None:
        """What is queued to be computed from now on starts after `mark`."""

    def abandon(self) -> None:
        """Wait for the copies under way, so that their memory can go; give back pinned memory."""


class CudaLink:
    """A GPU: a stream of its own for the copies, the current stream for what is computed."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._copies = torch.cuda.Stream(device)

    @property
    def _compute(self) -> torch.cuda.Stream:
        return torch.cuda.current_stream(self._device)

    def host_buffer(self, nbytes: int) -> Tensor:
        with torch.cuda.device(self._device):
            return torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)

    def memory(self, nbytes: int) -> Tensor:
        return torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def reserve(self, nbytes: int) -> None:
        # What is taken and given back at once stays with torch, which cuts tensors from it: asking
        # the driver for every tensor takes longer than copying it, and holds up the copies.
        with contextlib.suppress(torch.OutOfMemoryError):  # tensor by tensor there may be room
            torch.empty(nbytes, dtype=torch.uint8, device=self._device)

    def copy(self, target: Tensor, source: Tensor) -> None:
        with torch.cuda.stream(self._copies):
            target.copy_(source, non_blocking=True)

    def copied(self) -> torch.cuda.Event:
        return _record(self._copies)

    def computed(self) -> torch.cuda.Event:
        return _record(self._compute)

    def copies_wait(self, mark: Mark) -> None:
        assert isinstance(mark, torch.cuda.Event)
        self._copies.wait_event(mark)

    def compute_waits(self, mark: Mark) -> None:
        assert isinstance(mark, torch.cuda.Event)
        self._compute.wait_event(mark)

    def abandon(self) -> None:
        self._copies.synchronize()
        self._compute.synchronize()
        # Newer than torch 2.10, whose cache keeps the few pinned buffers for the next load.
        empty_host_cache = getattr(torch.accelerator, "empty_host_cache", None)
        if empty_host_cache is not None:
            empty_host_cache()


def _record(stream: torch.cuda.Stream) -> torch.cuda.Event:
    event = torch.cuda.Event(blocking=True)  # a reader that waits sleeps, the others need the core
    event.record(stream)
    return event
