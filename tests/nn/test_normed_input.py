"""Norms that the op of the product after them computes: when, and with the bits of both ops."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from rocmforge_torch import load_model
from rocmforge_torch.models import CausalLM
from rocmforge_torch.nn import Attention, BlindHook
from tests.models.tiny_models import LAYERS, TINY, build, write_gguf

norm_quant_matmul = torch.ops.rocmforge.norm_quant_matmul.default
IDS = (5, 9, 33, 2, 71, 8)
# Calls of the op for a token: query, key and value are one matrix, and so are gate and up. A norm
# stays an op of its own where what it adds is normed before (not in Gemma's first layer), or where
# two blocks read it.
CALLS = {
    "llama": 2 * LAYERS,
    "qwen2": 2 * LAYERS,
    "qwen3": 2 * LAYERS,
    "phi3": 2 * LAYERS,
    "granite": 2 * LAYERS,
    "gemma3": 1,
    "olmo2": 0,
    "stablelm-12b": 0,
}


class Counting(TorchDispatchMode):
    """Counts the calls of the op."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += op is norm_quant_matmul
        return op(*args, **(kwargs or {}))


@pytest.fixture
def packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the kernels of the CPU were those: they have the op, but for blocks of the file."""
    module = importlib.import_module("rocmforge_torch.nn.normed_input")
    monkeypatch.setattr(module, "PACKED", 0)


def tiny(name: str, folder: Path) -> CausalLM:
    return load_model(write_gguf(TINY[name], build(TINY[name]), folder / "tiny.gguf"), fuse=True)


@torch.inference_mode()
def decoded(model: CausalLM) -> tuple[Tensor, int]:
    """Logits of tokens one after the other, and how often the op was called for the last."""
    cache = model.new_cache(1, len(IDS))
    logits = []
    for token in IDS:
        with Counting() as counting:
            logits.append(model(torch.tensor([[token]]), cache))
    return torch.cat(logits, 1), counting.count


@pytest.mark.parametrize("name", CALLS)
def test_the_bits_are_those_of_the_ops(
    name: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    model = tiny(name, tmp_path)
    want, before = decoded(model)
    request.getfixturevalue("packed")
    got, count = decoded(model)
    assert before == 0
    assert count == CALLS[name]
    assert torch.equal(got, want)


@pytest.mark.usefixtures("packed")
@torch.inference_mode()
def test_many_rows_are_normed_apart(tmp_path: Path) -> None:
    model = tiny("llama", tmp_path)
    for batch, tokens, count in (
        (1, 128, 2 * LAYERS),
        (16, 1, 2 * LAYERS),
        (1, 129, 0),
        (9, 15, 0),
    ):
        with Counting() as counting:
            model(torch.ones(batch, tokens, dtype=torch.long), model.new_cache(batch, tokens))
        assert counting.count == count


@pytest.mark.usefixtures("packed")
@pytest.mark.parametrize("place", ["attn", "attn.qkv.0", "attn_norm"])
def test_who_looks_sees_tensors(place: str, tmp_path: Path) -> None:
    model = tiny("llama", tmp_path)
    seen = []
    module = model.layers[1].get_submodule(place)
    handle = module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    _, count = decoded(model)
    assert count == 2 * LAYERS - 1
    assert all(isinstance(x, Tensor) and x.shape == (1, 1, 64) for x in seen)
    assert len(seen) == (0 if place == "attn_norm" else len(IDS))
    handle.remove()
    calls = []
    module.register_forward_pre_hook(BlindHook(calls.append))
    assert decoded(model)[1] == 2 * LAYERS
    assert calls == [module] * (0 if place == "attn_norm" else len(IDS))


@pytest.mark.usefixtures("packed")
def test_a_block_of_somebody_elses_gets_tensors(tmp_path: Path) -> None:
    class Scaled(Attention):
        def forward(self, x: Any, step: Any, cache: Any) -> Tensor:
            return super().forward(2 * x, step, cache)

    model = tiny("llama", tmp_path)
    model.layers[1].attn.__class__ = Scaled
    assert decoded(model)[1] == 2 * LAYERS - 1


@pytest.mark.usefixtures("packed")
@torch.inference_mode()
def test_it_compiles_without_a_break(tmp_path: Path) -> None:
    model = tiny("llama", tmp_path)
    want, _ = decoded(model)
    cache = model.new_cache(1, len(IDS))
    step = torch.compile(model, backend="eager", fullgraph=True)
    got = torch.cat([step(torch.tensor([[token]]), cache) for token in IDS], 1)
    assert torch.equal(got, want)
