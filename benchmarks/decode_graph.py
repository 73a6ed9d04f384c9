"""The decoding step of a model as a torch.fx graph, for timing what works on graphs."""

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


class DecodeStep(nn.Module):
    """One token of every sequence to the scores of the next one; the cache is part of the module.

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
        """ids int64 [B, 1], lengths int64 [B] of what is in the cache -> scores [B, 1, V]."""
        layers = range(len(self.model.layers))
        k = [self.get_buffer(f"k{i}") for i in layers]
        v = [self.get_buffer(f"v{i}") for i in layers]
        first = torch.arange(lengths.shape[0], device=ids.device) * self.context
        step = Step(
            positions=lengths[:, None],
            seq_lens=(lengths + 1).to(torch.int32),
            slots=(first + lengths)[:, None],
            context=self.context,
        )
        return self.model.logits(self.model.hidden(ids, step, Buffers(k, v)))


def decode_graph(
    model: CausalLM, batch_size: int = 1, context: int = 64
) -> tuple[fx.GraphModule, list[Tensor]]:
    """The exported graph of a `DecodeStep`, and inputs for it."""
    ids = torch.zeros(batch_size, 1, dtype=torch.int64, device=model.device)
    lengths = torch.full((batch_size,), context // 2, dtype=torch.int64, device=model.device)
    step = DecodeStep(model, batch_size, context)
    return torch.export.export(step, (ids, lengths)).module(), [ids, lengths]
