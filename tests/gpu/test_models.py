"""Models on the GPU against the same models on the CPU: log-probabilities and greedy text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

import rocmforge_torch
from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch import load_model
from rocmforge_torch.generate import SamplingParams, generate_tokens, token_perplexity
from rocmforge_torch.models import CausalLM

pytestmark = pytest.mark.gpu
MODELS = {
    "llama-small": "Q4_0",
    "gemma3-small": "Q4_K",
    "qwen2-small": "Q8_0",
    "qwen3-small": "Q6_K",
}
GREEDY = 64
# Largest difference of a log-probability, and of a distribution from the CPU's. Exact: float32
# throughout. Fast: the CPU rounds activations to 8 bits for every product, the GPU for those of few
# rows, so the two differ by the rounding itself, as float32 and float16 caches do on the CPU alone.
EXACT = 2e-3
FAST_DIVERGENCE = 0.01


@pytest.fixture(scope="module", params=MODELS)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name = f"{request.param}.gguf"
    shape, qtype = PRESETS[request.param], MODELS[request.param]
    return write_model(tmp_path_factory.mktemp("models") / name, shape, qtype)


@pytest.fixture
def fast() -> Iterator[None]:
    before = rocmforge_torch.config.exact
    rocmforge_torch.config.exact = False
    yield
    rocmforge_torch.config.exact = before


def tokens(rows: int, length: int) -> Tensor:
    return (7919 * torch.arange(length) + 31 * torch.arange(rows)[:, None]) % 1900 + 5


@torch.inference_mode()
def logprobs(model: CausalLM, ids: Tensor, prefill: int) -> Tensor:
    """[B, T, V]: the first `prefill` tokens in one pass, the others one by one from the cache."""
    ids = ids.to(model.device)
    cache = model.new_cache(*ids.shape, dtype=torch.float32)
    parts = [model(ids[:, :prefill], cache)]
    parts += [model(ids[:, t : t + 1], cache) for t in range(prefill, ids.shape[1])]
    return torch.cat(parts, 1).float().log_softmax(-1).cpu()


def greedy(model: CausalLM, prompts: list[list[int]]) -> list[list[int]]:
    params = SamplingParams(temperature=0, max_tokens=GREEDY, ignore_eos=True)
    *_, generations = generate_tokens(model, prompts, params)
    return [g.tokens for g in generations]


def divergence(want: Tensor, got: Tensor) -> Tensor:
    return (want.exp() * (want - got)).sum(-1)


@pytest.mark.usefixtures("exact")
def test_exact_path(path: Path) -> None:
    ids = tokens(2, 120)
    cpu, gpu = load_model(path), load_model(path, "cuda", torch.float32)
    want, got = logprobs(cpu, ids, 100), logprobs(gpu, ids, 100)
    assert (got - want).abs().max() <= EXACT
    assert torch.equal(got, logprobs(gpu, ids, 100)), "the same bits every time"
    prompts = [ids[0, :40].tolist(), ids[1, :23].tolist()]
    assert greedy(gpu, prompts[:1]) == greedy(cpu, prompts[:1])
    assert greedy(gpu, prompts) == greedy(cpu, prompts)


@pytest.mark.usefixtures("fast")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_fast_path(path: Path, dtype: torch.dtype) -> None:
    ids = tokens(2, 120)
    want = logprobs(load_model(path), ids, 100)
    got = logprobs(load_model(path, "cuda", dtype), ids, 100)
    assert divergence(want, got).mean() <= FAST_DIVERGENCE


@torch.inference_mode()
def test_the_setting_reaches_both_libraries(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("cpu", "cuda"):
        model = load_model(path, device, torch.float32)
        ids = tokens(1, 1).to(device)
        logits = []
        for exact in (True, False, True):
            monkeypatch.setattr(rocmforge_torch.config, "exact", exact)
            logits.append(model(ids))
        assert torch.equal(logits[0], logits[2])
        assert not torch.equal(logits[0], logits[1]), f"the setting changes nothing on {device}"


@pytest.mark.usefixtures("exact")
def test_perplexity(path: Path) -> None:
    ids = tokens(1, 512)[0].tolist()
    cpu, gpu = load_model(path), load_model(path, "cuda", torch.float32)
    values = [[p.value for p in token_perplexity(m, ids, ctx_size=128)] for m in (cpu, gpu)]
    assert values[1] == pytest.approx(values[0], rel=1e-3)


@torch.inference_mode()
def test_no_pass_waits_for_the_gpu(path: Path) -> None:
    model = load_model(path, "cuda")
    ids = tokens(1, 12).cuda()
    cache = model.new_cache(1, 32)
    torch.cuda.set_sync_debug_mode("error")
    try:
        model(ids, cache)
        for _ in range(3):
            model(ids[:, :1], cache)
    finally:
        torch.cuda.set_sync_debug_mode("default")
