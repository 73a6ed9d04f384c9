"""Graphs without a GPU: a capture that records operators on tensors, and replays them.

As on a GPU, a capture does not execute: what the recorded run wrote is put back. A replay calls the
same operators on the same tensors, and every result goes where it was in the capture. So a number
that the host knew while it captured stays as it was, a tensor in another's place is not seen, and a
read by the host cannot be captured.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from rocmforge_torch.graphs.device import HostDevice

aten = torch.ops.aten
READS = {
    aten.item.default,
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.equal.default,
}


def storages(values: Any) -> dict[int, Tensor]:
    """The tensors among some values, by the storage they are in."""
    return {
        leaf.untyped_storage()._cdata: leaf
        for leaf in tree_leaves(values)
        if isinstance(leaf, Tensor)
    }


class Recorder(TorchDispatchMode):
    """Records calls; `undo` puts back what they wrote to tensors that were there before, and leaves
    alone what other threads write beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self._written: list[tuple[Tensor, Tensor, Tensor]] = []  # bytes, where, what was there
        self._made: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            raise RuntimeError("operation not permitted when stream is capturing")
        written = [
            value
            for argument, value in zip(func._schema.arguments, args, strict=False)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        before = [
            (whole, whole.clone())
            for key, tensor in storages(written).items()
            if key not in self._made
            for whole in [torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())]
        ]
        out = func(*args, **kwargs)
        for whole, was in before:
            places = (whole != was).nonzero()[:, 0]
            self._written.append((whole, places, was[places]))
        inputs = storages((args, kwargs))
        results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        fresh = [r for r in results if r.untyped_storage()._cdata not in inputs]
        self._made |= {r.untyped_storage()._cdata for r in fresh}
        self.calls.append((func, args, kwargs, results))
        return out

    def undo(self) -> None:
        for whole, places, was in reversed(self._written):
            whole[places] = was

    def replay(self) -> None:
        with torch.inference_mode():
            for func, args, kwargs, recorded in self.calls:
                inputs = storages((args, kwargs))
                out = func(*args, **kwargs)
                results = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
                for was, new in zip(recorded, results, strict=True):
                    if was.untyped_storage()._cdata not in inputs:
                        was.copy_(new)


class RecordingDevice(HostDevice):
    """Captures by a `Recorder`.

    Attributes:
        replays: how often anything was replayed, on any of these devices.
    """

    replays = 0
    _lock = threading.Lock()

    def refusal(self) -> str | None:
        return None

    def capture(self, run: Callable[[], Any]) -> tuple[Callable[[], None], Any]:
        run()
        with Recorder() as recorder:
            result = run()
        recorder.undo()
        for leaf in tree_leaves(result):
            leaf.fill_(-1)  # nothing has been computed yet

        def replay() -> None:
            with RecordingDevice._lock:
                RecordingDevice.replays += 1
            recorder.replay()

        return replay, result
