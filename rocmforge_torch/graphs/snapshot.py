"""Steps that are taken to be looked at, and undone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn import KVCache
from .state import LENGTH, DecodeState


@dataclass
class Snapshot:
    """All that some steps change, to be put back."""

    state: DecodeState
    slots: Tensor
    numbers: list[Tensor]
    stored: list[Tensor]

    @classmethod
    def take(cls, state: DecodeState, decoding: int, steps: int) -> Snapshot:
        """Before `steps` steps of the first `decoding` rows of the plan; all have room for them."""
        rows, _, first = state.plan[:, :decoding].unbind(0)
        begin = first + state.numbers[LENGTH].index_select(0, rows)
        offsets = torch.arange(steps, device=begin.device)
        slots = (begin[:, None] + offsets).flatten()
        return cls(state, slots, _numbers(state), _stored(state.cache, slots))

    def now(self) -> list[Tensor]:
        """Numbers, and keys and values at the slots, as they are now."""
        return [*_numbers(self.state), *_stored(self.state.cache, self.slots)]

    def restore(self) -> None:
        for tensor, was in zip(_advanced(self.state), self.numbers, strict=True):
            tensor.copy_(was)
        for tensor, rows in zip(_bytes(self.state.cache), self.stored, strict=True):
            tensor.index_copy_(0, self.slots, rows)


def _advanced(state: DecodeState) -> list[Tensor]:
    return [state.numbers, state.ring, state.turn]


def _numbers(state: DecodeState) -> list[Tensor]:
    return [tensor.clone() for tensor in _advanced(state)]


def _bytes(cache: KVCache) -> list[Tensor]:
    """Of every layer's keys, and of its values, uint8 [slots, H, bytes]: not all ops know fp8."""
    return [tensor.flatten(0, 1).view(torch.uint8) for tensor in (*cache.k, *cache.v)]


def _stored(cache: KVCache, slots: Tensor) -> list[Tensor]:
    return [tensor.index_select(0, slots) for tensor in _bytes(cache)]


def observe(run: Callable[[], tuple[Tensor, Tensor]], before: Snapshot, steps: int) -> list[Tensor]:
    """Bits of all that some steps give and leave behind, which is then put back."""
    seen: list[Tensor] = []
    for _ in range(steps):
        logits, tokens = run()
        seen += [logits.clone(memory_format=torch.contiguous_format), tokens.clone()]
    seen += before.now()
    before.restore()
    return seen


def same_bits(wanted: list[Tensor], got: list[Tensor]) -> bool:
    """Whether two runs gave and left the same."""
    return all(
        torch.equal(a.view(torch.uint8), b.view(torch.uint8))
        for a, b in zip(wanted, got, strict=True)
    )
