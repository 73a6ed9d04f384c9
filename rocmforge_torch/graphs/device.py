"""What decoding needs of a device: order, capture, and reads that the host does not wait for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import torch
from torch import Tensor

from .. import extension
from ..allocator import TensorAllocator, with_allocator

T = TypeVar("T")

# PyTorch allows one capture at a time in a process.
_CAPTURING = threading.Lock()
# Graphs whose capture could not be ended: PyTorch keeps pointers to them.
_ABANDONED: list[torch.cuda.CUDAGraph] = []


class HostEvent:
    """A point in what a device does; the host has always passed it."""

    def record(self) -> None:
        """Move it behind all that has been asked for, after `order`."""

    def synchronize(self) -> None:
        """Wait until it is passed, and for nothing after it."""


class CudaEvent(HostEvent):
    """The same on a GPU."""

    def __init__(self, device: CudaDevice) -> None:
        self._device = device
        self._event = torch.cuda.Event()

    def record(self) -> None:
        self._event.record(self._device.stream)

    def synchronize(self) -> None:
        self._event.synchronize()


class GraphDevice(Protocol):
    """A device that may be able to capture."""

    def refusal(self) -> str | None:
        """Why nothing can be captured here, in one sentence; None if it can."""

    def order(self) -> None:
        """Have what follows on this thread's stream wait for the last thread's that called this."""

    def put(self, values: Sequence[Sequence[int]], into: Tensor) -> None:
        """Write int64 [R, C] without waiting for the device."""

    def on_host(self, tensor: Tensor) -> Tensor:
        """Memory on the host that a tensor can be copied to without waiting for the device."""

    def event(self) -> HostEvent:
        """One that has not been recorded yet."""

    def capture(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        """Run once for real, record a second run -> (what replays it, the result it leaves).

        The result's tensors hold what the last replay put there, until another graph of this
        object is replayed.
        """

    def pool_bytes(self) -> int:
        """Device memory that the captured graphs hold for their intermediate results."""


class HostDevice:
    """The CPU: everything has happened when a call returns, and nothing can be captured."""

    def refusal(self) -> str | None:
        return "the model is on the CPU, which has no graphs"

    def order(self) -> None:
        pass

    def put(self, values: Sequence[Sequence[int]], into: Tensor) -> None:
        into.copy_(torch.tensor(values))

    def on_host(self, tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor)

    def event(self) -> HostEvent:
        return HostEvent()

    def capture(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        raise NotImplementedError(self.refusal())  # never asked for: see refusal

    def pool_bytes(self) -> int:
        return 0


class CudaDevice:
    """A GPU of torch.cuda, which under ROCm means HIP and its graphs.

    Attributes:
        device: which.
        stream: the one that was current at the last `order`.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.current_stream(device)
        self._capturing = torch.cuda.Stream(device)  # and nothing else
        self._pool = torch.cuda.graph_pool_handle()
        # Blocks of a planned arena are the graphs' own: the current allocator would hand memory
        # that a replay writes to out again.
        self._allocator = TensorAllocator()

    def refusal(self) -> str | None:
        return None

    def order(self) -> None:
        # Every step asks: PyTorch takes microseconds to make a Stream.
        if torch._C._cuda_getCurrentRawStream(self.device.index) != self.stream.cuda_stream:
            stream = torch.cuda.current_stream(self.device)
            stream.wait_stream(self.stream)
            self.stream = stream

    def put(self, values: Sequence[Sequence[int]], into: Tensor) -> None:
        # The host allocator does not reuse pinned memory before a copy from it is done.
        into.copy_(torch.tensor(values, pin_memory=True), non_blocking=True)

    def on_host(self, tensor: Tensor) -> Tensor:
        return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)

    def event(self) -> HostEvent:
        return CudaEvent(self)

    def capture(self, run: Callable[[], T]) -> tuple[Callable[[], None], T]:
        with _CAPTURING, torch.cuda.device(self.device):
            self._capturing.wait_stream(self.stream)
            try:
                with torch.cuda.stream(self._capturing):
                    run()  # loads kernels and makes workspaces, which a capture must not
            finally:
                self._capturing.synchronize()
            torch.cuda.empty_cache()
            # Kernels of a step write to no input of another but new keys and values, or long before
            # it is read; what is ahead of a replay is done when it starts.
            with (
                torch.cuda.stream(self._capturing),
                with_allocator(self._allocator),
                extension.inputs_at_rest(),
            ):
                graph, result = self._recorded(run)
            self.stream.wait_stream(self._capturing)
        return graph.replay, result

    def _recorded(self, run: Callable[[], T]) -> tuple[torch.cuda.CUDAGraph, T]:
        """As torch.cuda.graph, which leaves its stream current and memory to a pool of which nobody
        can ever free anything (`empty_cache` raises) where the capture fails."""
        graph = torch.cuda.CUDAGraph()
        graph.capture_begin(pool=self._pool, capture_error_mode="thread_local")
        try:
            result = run()
        except BaseException:
            with contextlib.suppress(RuntimeError):  # which says that the capture failed, not why
                self._end(graph)
            raise
        self._end(graph)
        return graph, result

    def _end(self, graph: torch.cuda.CUDAGraph) -> None:
        try:
            graph.capture_end()
        except RuntimeError:
            _ABANDONED.append(graph)
            with contextlib.suppress(RuntimeError):  # it may have come so far
                torch.cuda.memory._cuda_endAllocateToPool(self.device.index, self._pool)
            raise

    def pool_bytes(self) -> int:
        segments = torch.cuda.memory_snapshot(self._pool)
        return sum(s["total_size"] for s in segments if s["segment_pool_id"] == self._pool)


def graph_device(device: torch.device) -> GraphDevice:
    """What captures on a device; of other kinds than GPUs the host's, which runs eagerly."""
    return CudaDevice(device) if device.type == "cuda" else HostDevice()
