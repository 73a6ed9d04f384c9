"""Gemma 3 270M on the GPU: the numbers of tests/models/test_gemma3_270m.py, and the CPU's text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from rocmforge_torch import load_model
from rocmforge_torch.generate import SamplingParams, complete, token_perplexity
from rocmforge_torch.models import CausalLM
from rocmforge_torch.nn import uncached_step
from tests.models.test_gemma3_270m import DATA, EXACT_PERPLEXITY, FIRST, LAST

pytestmark = pytest.mark.gpu
PROMPTS = ["The capital of France is", "Once upon a time", "def fibonacci(n):"]


@pytest.fixture(scope="module")
def reference() -> Any:
    import numpy as np

    with np.load(DATA) as data:
        return {name: torch.from_numpy(data[name]) for name in data.files if data[name].ndim}


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=str)
def model(request: pytest.FixtureRequest, demo_model_path: Path) -> CausalLM:
    return load_model(demo_model_path, "cuda", request.param)


@torch.inference_mode()
def logprobs(model: CausalLM, tokens: torch.Tensor) -> torch.Tensor:
    """tokens [512] -> log-probabilities of the next token at the scored positions [255, V]."""
    ids = tokens.long()[None].to(model.device)
    hidden = model.hidden(ids, uncached_step(ids), None)[0, FIRST : LAST + 1]
    return model.logits(hidden).float().log_softmax(-1).cpu()


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("window", [0, 1])
def test_exact_path(demo_model_path: Path, reference: Any, window: int) -> None:
    got = logprobs(load_model(demo_model_path, "cuda", torch.float32), reference["tokens"][window])
    ids, want = reference["exact_ids"][window].long(), reference["exact_logprobs"][window]
    assert (got.gather(-1, ids) - want).abs().mean() <= 0.001
    assert (got.argmax(-1) == ids[:, 0]).float().mean() >= 0.995


@pytest.mark.parametrize("window", [0, 1])
def test_fast_path(model: CausalLM, reference: Any, window: int) -> None:
    got = logprobs(model, reference["tokens"][window])
    ids, want = reference["exact_ids"][window].long(), reference["exact_logprobs"][window]
    divergence = (want.exp() * (want - got.gather(-1, ids))).sum(-1).mean()
    assert abs(divergence) <= 0.006
    assert (got.argmax(-1) == ids[:, 0]).float().mean() >= 0.94


@pytest.mark.usefixtures("exact")
def test_exact_perplexity(demo_model_path: Path, reference: Any) -> None:
    model = load_model(demo_model_path, "cuda", torch.float32)
    values = [p.value for p in token_perplexity(model, reference["tokens"].flatten().tolist(), 2)]
    assert values == pytest.approx(EXACT_PERPLEXITY, rel=0.002)


def test_fast_perplexity(model: CausalLM, reference: Any) -> None:
    values = [p.value for p in token_perplexity(model, reference["tokens"].flatten().tolist(), 2)]
    assert values == pytest.approx(EXACT_PERPLEXITY, rel=0.01)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("prompt", PROMPTS)
def test_greedy_text_is_the_cpus(demo_model_path: Path, prompt: str) -> None:
    params = SamplingParams(temperature=0, max_tokens=64, ignore_eos=True)
    texts = []
    for device in ("cpu", "cuda"):
        model = load_model(demo_model_path, device, torch.float32)
        (done,) = complete(model, [prompt], params)
        assert len(done.tokens) == 64
        texts.append(done.tokens)
    assert texts[0] == texts[1]


@torch.inference_mode()
def test_cached_decoding_equals_one_pass(model: CausalLM, reference: Any) -> None:
    """Beyond the sliding window of 512, with a half-precision cache."""
    ids = reference["tokens"].flatten()[None, :560].long().to(model.device)
    want = model.logits(model.hidden(ids, uncached_step(ids), None)[:, -4:]).float().log_softmax(-1)
    cache = model.new_cache(max_seq_len=560)
    model.hidden(ids[:, :556], cache.advance(556), cache)
    got = torch.cat([model(ids[:, t : t + 1], cache) for t in range(556, 560)], 1)
    divergence = (want.exp() * (want - got.float().log_softmax(-1))).sum(-1)
    assert divergence.max() < 0.02
