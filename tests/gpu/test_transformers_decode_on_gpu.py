"""Decoding in transformers on a GPU: our attention, cache and compiled steps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.synthetic import PRESETS, write_model
from benchmarks.transformers_decode import theirs
from rocmforge_torch.fx.backend import rocmforge
from rocmforge_torch.integrations.transformers import RocmForgeCache, from_gguf

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore:.*past_key_values:FutureWarning"),
]
EXACT = 2e-3  # of a log-probability, as in test_models.py
PROMPT, TOKENS, ROOM = 70, 76, 80  # beyond windows of 64
VARIED = ("llama-small", "qwen2-small", "qwen3-small")  # Gemma's random weights repeat one token
MODELS = (*VARIED, "gemma3-small")


@pytest.fixture(scope="module", params=MODELS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("decode") / "model.gguf"
    return write_model(file, PRESETS[request.param], "Q4_0")


def ids(batch: int) -> Tensor:
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(5, 1900, (batch, TOKENS), generator=generator)


def log_probabilities(
    model: Any, step: Any, input_ids: Tensor, dtype: Any, padding: int = 0
) -> Tensor:
    """Of the tokens behind the prompt, each by a call of `step`."""
    cache = RocmForgeCache(model, ROOM, len(input_ids), dtype)
    given: dict[str, Tensor] = {}
    mask = torch.ones_like(input_ids)
    mask[1:, :padding] = 0
    places = (mask.cumsum(-1) - 1).clamp(min=0)
    found = []
    for start, end in ((0, PROMPT), *((t, t + 1) for t in range(PROMPT, TOKENS))):
        given = {"attention_mask": mask[:, :end]} if padding else {}
        given["position_ids"] = places[:, start:end].clone()
        tokens = input_ids[:, start:end].clone()
        call = step if end - start == 1 else model
        found.append(call(tokens, past_key_values=cache, **given).logits.float().cpu())
    return torch.cat(found[1:], 1).log_softmax(-1)


@torch.inference_mode()
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("fuse", [False, True])
@pytest.mark.parametrize("dtype", [None, "f16"])
def test_compiled_steps_give_what_eager_ones_do_on_the_cpu(
    path: Path, fuse: bool, dtype: str | None
) -> None:
    torch._dynamo.reset()
    model = from_gguf(path, "cuda", torch.float32, fuse=fuse)
    options = {"inductor": False}
    step = torch.compile(model, backend=rocmforge, fullgraph=True, options=options)
    got = log_probabilities(model, step, ids(2).cuda(), dtype)
    # What a cache of another format loses, both have lost.
    plain = from_gguf(path, attn_implementation="rocmforge" if dtype else "sdpa")
    want = log_probabilities(plain, plain, ids(2), dtype)
    assert (got - want).abs().max() <= EXACT


@torch.inference_mode()
@pytest.mark.usefixtures("exact")
def test_padding_on_the_left(path: Path) -> None:
    model, plain = from_gguf(path, "cuda", torch.float32), from_gguf(path)
    got = log_probabilities(model, model, ids(2).cuda(), None, padding=9)
    want = log_probabilities(plain, plain, ids(2), None, padding=9)
    assert (got - want).abs().max() <= EXACT


@pytest.mark.parametrize("path", VARIED, indirect=True)
@pytest.mark.parametrize("way", ["eager", "compiled by rocmforge"])
def test_captured_steps_write_the_same(path: Path, way: str) -> None:
    """With kernels that read slots and lengths early, as the benchmark captures them."""
    torch._dynamo.reset()
    _, want = theirs(str(path), "cuda", 80, way)(40)
    captured = {"eager": "captured"}.get(way, f"{way}, captured")
    _, got = theirs(str(path), "cuda", 80, captured)(40)
    assert got == want
    assert len(set(want)) > 5, "a text that repeats itself would hide a graph that does"


@torch.inference_mode()
def test_a_replayed_step_is_the_eager_one(path: Path) -> None:
    """Every step of a captured one against the same compiled code run eagerly, bit for bit."""
    torch._dynamo.reset()
    model = from_gguf(path, "cuda", fuse=True)
    options = {"inductor": False}
    step = torch.compile(model, backend=rocmforge, fullgraph=True, options=options)
    want = log_probabilities(model, step, ids(1).cuda(), None)
    graph, static = torch.cuda.CUDAGraph(), {}

    def replayed(tokens: Tensor, position_ids: Tensor, past_key_values: Any) -> Any:
        if not static:
            static["tokens"], static["places"] = tokens.clone(), position_ids.clone()
        static["tokens"].copy_(tokens)
        static["places"].copy_(position_ids)
        given = {"position_ids": static["places"], "past_key_values": past_key_values}
        if len(static) == 2:
            static["warm"] = True
            return step(static["tokens"], **given)
        if "out" not in static:
            with torch.cuda.graph(graph):
                static["out"] = step(static["tokens"], **given)
        graph.replay()
        return static["out"]

    assert torch.equal(log_probabilities(model, replayed, ids(1).cuda(), None), want)
