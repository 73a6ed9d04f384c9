"""What a model computes on the way: hidden states and attention maps."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..models.decoder import Decoder
from ..nn import AttentionCore


@dataclass
class Recording:
    """What the last call of a model inside of `record` went through.

    Attributes:
        hidden_states: the input of every layer, then the output of the last (before the output
            norm), L + 1 tensors [B, T, C]; with gradients where the call has them.
        attentions: for every layer what each query takes of each value, L tensors float32
            [B, H, T, S], without gradients; S is the number of keys, the longest sequence's. Empty
            unless asked for.
    """

    hidden_states: list[Tensor] = field(default_factory=list)
    attentions: list[Tensor] = field(default_factory=list)

    def clear(self) -> None:
        """Forget what was recorded."""
        self.hidden_states.clear()
        self.attentions.clear()


@contextmanager
def record(model: Decoder, attentions: bool = False) -> Generator[Recording, None, None]:
    """Record what the calls of a model inside of the `with` go through; each replaces the last.

    Results of the model stay the same, bit for bit: layers are hooked, and attention maps are
    computed beside the kernel, by the op's reference, which holds all scores of a layer at once and
    reads the longest length from the device.

    Args:
        model: the model. Layers that replaced its own are recorded too, but have no map.
        attentions: whether to compute attention maps.
    """
    recording = Recording()

    def begin(module: nn.Module, args: tuple[Any, ...]) -> None:
        recording.clear()
        recording.hidden_states.append(args[0])

    def end(module: nn.Module, args: Any, output: Tensor) -> None:
        recording.hidden_states.append(output)

    def attend(core: nn.Module, args: tuple[Any, ...]) -> None:
        q, k, _, step = args
        assert isinstance(core, AttentionCore)
        with torch.no_grad():
            longest = int(step.seq_lens.max())
            recording.attentions.append(core.weights(q, k, step)[..., :longest])

    with ExitStack() as stack:
        layers = list(model.layers)
        handles = [layers[0].register_forward_pre_hook(begin)]
        handles += [layer.register_forward_hook(end) for layer in layers]
        if attentions:
            cores = [m for layer in layers for m in layer.modules() if isinstance(m, AttentionCore)]
            handles += [core.register_forward_pre_hook(attend) for core in cores]
        for handle in handles:
            stack.callback(handle.remove)
        yield recording
