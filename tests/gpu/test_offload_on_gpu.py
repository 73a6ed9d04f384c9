"""Models with streamed layers on a GPU: the bits of a model that is all there, in less memory."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.synthetic import PRESETS, write_model
from rocmforge_torch import load_model
from rocmforge_torch.exported import ExportedDecoder
from rocmforge_torch.generate import SamplingParams, generate_tokens
from rocmforge_torch.models import CausalLM
from rocmforge_torch.models.export import export_model

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("offload") / "model.gguf"
    return write_model(file, PRESETS["llama-small"], "Q4_K")


@torch.inference_mode()
def logits(model: CausalLM) -> list[Tensor]:
    """Of a prompt, and of 16 tokens after it, without a wait of the host in between."""
    ids = (7919 * torch.arange(80)[None] % 1900 + 5).to(model.device)
    cache = model.new_cache(1, 80)
    return [model(ids[:, :64], cache), *(model(ids[:, t : t + 1], cache) for t in range(64, 80))]


def tokens(model: CausalLM) -> list[int]:
    """48 tokens by the decoding loop."""
    params = SamplingParams(temperature=0.0, max_tokens=48)
    *_, (generation,) = generate_tokens(model, [[5, 9, 40]], params)
    return generation.tokens


@pytest.mark.parametrize("stay", [0, 1, 2])
def test_the_same_bits(path: Path, stay: int) -> None:
    want = logits(load_model(path, "cuda"))
    model = load_model(path, "cuda", gpu_layers=stay)
    assert model.offload is not None
    for _ in range(3):
        assert all(torch.equal(a, b) for a, b in zip(logits(model), want, strict=True))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):  # a stream that the model was not loaded on
        mine = logits(model)
    stream.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(mine, want, strict=True))
    assert tokens(model) == tokens(load_model(path, "cuda"))


def test_memory_is_what_the_plan_says(path: Path) -> None:
    load_model(path, "cuda", gpu_layers=0)  # what a process keeps of its first is not the plan's
    gc.collect()
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    model = load_model(path, "cuda", gpu_layers=0)
    plan = model.offload
    assert plan is not None
    gc.collect()
    taken = torch.cuda.memory_allocated() - before
    # Norms, frequencies and the rounding of every tensor to 512 bytes come to less than 1 MiB.
    assert taken <= plan.resident_bytes + plan.buffer_bytes + (1 << 20)


@torch.inference_mode()
def test_an_exported_program_moves_to_the_gpu(path: Path, tmp_path: Path) -> None:
    model = load_model(path, dtype=torch.bfloat16)
    export_model(model, tmp_path / "model.pt2", ctx_size=64)
    decoder = ExportedDecoder(tmp_path / "model.pt2", "cuda")
    ids = torch.tensor([[5, 9, 40, 77]], device="cuda")
    cache = decoder.new_cache(1, 16)
    got = decoder(ids, cache).float().log_softmax(-1).cpu()
    want = model(ids.cpu())[:, -1].float().log_softmax(-1)
    assert (got.exp() * (got - want)).sum() < 0.01  # as in test_models.py
