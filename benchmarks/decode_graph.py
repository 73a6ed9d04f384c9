"""Steps of a model over its cache as torch.fx graphs, for timing what works on graphs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from rocmforge_torch.models import CausalLM
from rocmforge_torch.nn import Step


@dataclass
class Buffers:
    """Keys and values of every layer."""

    k: list[Tensor]
    v: list[Tensor]


class CachedStep(nn.Module):
    """The next tokens of every sequence to the scores of what follows; the cache is part of it.

    Attributes:
        model: the model.
        context: tokens that a sequence can have.
    """

    def __init__(self, model: CausalLM, batch_size: int, context: int) -> None:
        super().__init__()
        self.model = model
        self.context = context
        cache = model.new_cache(batch_size, context)
        for i, (k, v) in enumerate(zip(cache.k, cache.v, strict=True)):
            self.register_buffer(f"k{i}", k.zero_())
            self.register_buffer(f"v{i}", v.zero_())

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """ids int64 [B, T], lengths int64 [B] of what is in the cache -> scores [B, V]."""
        (b, t), device = ids.shape, ids.device
        layers = range(len(self.model.layers))
        k = [self.get_buffer(f"k{i}") for i in layers]
        v = [self.get_buffer(f"v{i}") for i in layers]
        positions = lengths[:, None]
        if t > 1:
            positions = positions + torch.arange(t, device=device)
        first = torch.arange(b, device=device)[:, None] * self.context
        seq_lens = (lengths + t).to(torch.int32)
        step = Step(positions, seq_lens, first + positions, self.context)
        hidden = self.model.hidden(ids, step, Buffers(k, v))
        return self.model.logits(hidden[:, -1])


def example_inputs(step: CachedStep, tokens: int = 1) -> list[Tensor]:
    """T tokens for every sequence, which are half full."""
    batch_size, device = step.k0.shape[0], step.model.device
    ids = torch.zeros(batch_size, tokens, dtype=torch.int64, device=device)
    held = (step.context - tokens) // 2
    return [ids, torch.full((batch_size,), held, dtype=torch.int64, device=device)]


def graph_of(step: CachedStep, tokens: int = 1) -> tuple[fx.GraphModule, list[Tensor]]:
    """The exported graph of T tokens, and inputs for it."""
    inputs = example_inputs(step, tokens)
    return torch.export.export(step, tuple(inputs)).module(), inputs
