"""Collects an importance matrix: runs a model over a text and squares what enters its matrices."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..generate.perplexity import windows
from ..models import CausalLM
from ..models.decoder import DecoderLayer
from ..nn import GatedMLP, uncached_step
from .importance import Importance

OUTPUT, TIED_OUTPUT = "output.weight", "token_embd.weight"


class Collector:
    """Sums of squared inputs, by the GGUF names of the matrices that they enter.

    Matrices of one input share its sums, as query, key and value do, fused or not.
    """

    def __init__(self, model: CausalLM, process_output: bool = False) -> None:
        """process_output: of the output matrix too, which needs the logits to be computed."""
        self.model = model
        self.process_output = process_output
        self.sums: dict[tuple[str, ...], Tensor] = {}
        self.tokens: dict[tuple[str, ...], int] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it, every pass of the model is counted."""
        hooks = []
        for i, layer in enumerate(self.model.layers):
            assert isinstance(layer, DecoderLayer)
            for module, names in _inputs(layer, f"blk.{i}.", self.model.file.tensors):
                hooks.append(module.register_forward_pre_hook(self._hook(names)))
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def run(self, ids: Tensor) -> None:
        """One pass over ids int [B, T]."""
        hidden = self.model.hidden(ids, uncached_step(ids), None)
        if self.process_output:
            name = OUTPUT if self.model.output is not None else TIED_OUTPUT
            self._add((name,), hidden)

    def importance(self, dataset: str, chunks: int, chunk_size: int) -> Importance:
        """What was collected."""
        means, counts = {}, {}
        for names, sums in self.sums.items():
            mean = (sums / self.tokens[names]).float().cpu()[None]
            for name in names:
                means[name] = mean
                counts[name] = torch.tensor([float(self.tokens[names])])
        return Importance(means, counts, (dataset,), chunks, chunk_size)

    def _hook(self, names: tuple[str, ...]) -> Any:
        def add(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            self._add(names, args[0])

        return add

    def _add(self, names: tuple[str, ...], x: Tensor) -> None:
        squares = x.detach().flatten(0, -2).double().square().sum(0)
        self.sums[names] = self.sums[names] + squares if names in self.sums else squares
        self.tokens[names] = self.tokens.get(names, 0) + x[..., 0].numel()


def _inputs(
    layer: DecoderLayer, prefix: str, known: Container[str]
) -> Iterator[tuple[nn.Module, tuple[str, ...]]]:
    """(module, names of the matrices that its input enters) of a layer."""
    attn, mlp = layer.attn, layer.mlp
    first = mlp.gate_up[0] if isinstance(mlp, GatedMLP) else mlp.up
    parts: tuple[tuple[nn.Module, tuple[str, ...]], ...] = (
        (attn.qkv[0], ("attn_q", "attn_k", "attn_v", "attn_qkv")),
        (attn.out, ("attn_output",)),
        (first, ("ffn_gate", "ffn_up")),
        (mlp.down, ("ffn_down",)),
    )
    for module, names in parts:
        weights = (f"{prefix}{name}.weight" for name in names)
        yield module, tuple(name for name in weights if name in known)


@torch.inference_mode()
def collect(
    model: CausalLM,
    text: str,
    dataset: str = "",
    ctx_size: int = 512,
    chunks: int | None = None,
    process_output: bool = False,
    report: Callable[[int], object] = lambda windows: None,
) -> Importance:
    """Run a model over windows of a text, as llama.cpp's `llama-imatrix`: all positions count.

    The first token of every window is replaced by BOS where the model uses one.

    Args:
        model: the model.
        text: the text.
        dataset: what the text is called.
        ctx_size: tokens of a window.
        chunks: at most so many windows.
        process_output: of the output matrix too, which by default is not weighed.
        report: called with 1 after every window.

    Raises:
        ValueError: ctx_size is less than 4, chunks is not positive, or the text fills no window.
    """
    tokens, bos = model.tokenizer.encode(text), model.tokenizer.bos_id
    parts = windows(tokens, bos if tokens[:1] == [bos] else None, ctx_size, chunks)
    collector = Collector(model, process_output)
    with collector.watching():
        for window in parts:
            collector.run(torch.tensor([window], device=model.device))
            report(1)
    return collector.importance(dataset, len(parts), ctx_size)
