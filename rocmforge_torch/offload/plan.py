"""Which layers stay on the device, and which are streamed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..ranges import ranges

BUFFERS = 2  # one is computed from while the other is filled
GIB = 2**30


@dataclass(frozen=True)
class OffloadPlan:
    """Where the weights of a model are.

    Attributes:
        device: its name.
        layers: bytes of each layer.
        streamed: the layers that are in pinned host memory, in order; all others stay.
        other: bytes of what always stays: embeddings, norms, the output layer.
        free: bytes of the device that weights may take; None if nobody asked, as the number of
            layers was given.
    """

    device: str
    layers: tuple[int, ...]
    streamed: tuple[int, ...]
    other: int
    free: int | None

    @property
    def resident_bytes(self) -> int:
        """Bytes of the weights that stay on the device."""
        return self.other + sum(self.layers) - self.streamed_bytes

    @property
    def streamed_bytes(self) -> int:
        """Bytes of the streamed layers: host memory, and what every pass copies."""
        return sum(self.layers[i] for i in self.streamed)

    @property
    def buffer_bytes(self) -> int:
        """Bytes of all buffers on the device."""
        largest = max((self.layers[i] for i in self.streamed), default=0)
        return largest * min(BUFFERS, len(self.streamed))

    def __str__(self) -> str:
        """A few lines for people."""
        if not self.streamed:
            size = _gib(self.resident_bytes)
            return f"all {len(self.layers)} layers stay on {self.device} ({size})"
        stay = len(self.layers) - len(self.streamed)
        if self.free is None:
            why = f"{stay} layers were asked for"
        else:
            why = f"{_gib(self.free)} are free for {_gib(self.other + sum(self.layers))} of weights"
        return (
            f"{stay} of {len(self.layers)} layers stay on {self.device} "
            f"({_gib(self.resident_bytes)} with embeddings and output), as {why}; "
            f"{len(self.streamed)} are streamed from host memory ({_gib(self.streamed_bytes)} a "
            f"pass, through {_gib(self.buffer_bytes)} of buffers): layers {ranges(self.streamed)}"
        )


def plan_offload(
    layers: Sequence[int],
    other: int,
    *,
    free: int | None = None,
    gpu_layers: int | None = None,
    device: str = "cuda",
) -> OffloadPlan:
    """Choose the layers that stay.

    Streamed layers are spread evenly between the others, so that the next one is copied while those
    compute; a run of streamed layers at one end would leave the link idle meanwhile.

    Args:
        layers: bytes of each layer.
        other: bytes of what is in no layer.
        free: bytes that weights and buffers may take; as many layers stay as fit.
        gpu_layers: how many layers stay, if not as many as fit; more than there are means all.
        device: its name, for messages.

    Raises:
        MemoryError: what must stay and the buffers do not fit.
        ValueError: gpu_layers is negative, or neither it nor `free` is given.
    """
    count = len(layers)
    if gpu_layers is None and free is None:
        raise ValueError("give free or gpu_layers")
    if gpu_layers is not None:
        if gpu_layers < 0:
            raise ValueError(f"gpu_layers must be 0 or more, got {gpu_layers}")
        return OffloadPlan(
            device, tuple(layers), _spread(count, count - min(gpu_layers, count)), other, None
        )
    assert free is not None
    for streamed in range(count + 1):
        plan = OffloadPlan(device, tuple(layers), _spread(count, streamed), other, free)
        if plan.resident_bytes + plan.buffer_bytes <= free:
            return plan
    raise MemoryError(
        f"{device} has {_gib(free)} for weights, but what cannot be streamed takes "
        f"{_gib(plan.resident_bytes + plan.buffer_bytes)} (embeddings, output and buffers)"
    )


def _spread(count: int, chosen: int) -> tuple[int, ...]:
    """`chosen` numbers of 0 to count - 1 at even distances, the last one among them."""
    return tuple((i + 1) * count // chosen - 1 for i in range(chosen))


def _gib(nbytes: int) -> str:
    return f"{nbytes / GIB:.2f} GiB"
