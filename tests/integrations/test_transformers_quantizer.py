"""Quantizing on load, with transformers' own models and folders."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
import transformers

from rocmforge_torch import GGUFTensor
from rocmforge_torch.integrations.transformers import RocmForgeConfig

IDS = torch.randint(96, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module", params=[False, True], ids=["untied", "tied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model, saved: rows of 64, and of 80 in the second half of its feed-forward."""
    torch.manual_seed(0)
    config = transformers.Qwen2Config(
        vocab_size=96, hidden_size=64, intermediate_size=80, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=64,
        tie_word_embeddings=request.param, initializer_range=0.2,
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model")
    transformers.Qwen2ForCausalLM(config).save_pretrained(path)
    return path


def load(folder: Path, config: RocmForgeConfig | None) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.float32
    )


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(IDS, use_cache=False).logits
    return found


@pytest.mark.usefixtures("exact")
def test_quantize_on_load(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """As the same model on the numbers that gguf-py's Q8_0 of its weights holds."""
    with caplog.at_level(logging.WARNING, "rocmforge_torch"):
        model = load(folder, RocmForgeConfig("q8_0"))
    assert "model.layers.0.mlp.down_proj, model.layers.1.mlp.down_proj" in caplog.text
    want = load(folder, None)
    q8_0 = gguf.GGMLQuantizationType.Q8_0
    for parameter in want.parameters():
        if parameter.dim() == 2 and parameter.shape[1] == 64:
            blocks = gguf.quants.quantize(parameter.detach().numpy(), q8_0)
            parameter.data = torch.from_numpy(gguf.quants.dequantize(blocks, q8_0))
    quantized = {n: p for n, p in model.named_parameters() if isinstance(p, GGUFTensor)}
    tied = model.config.tie_word_embeddings
    assert len(quantized) == 2 * 6 + 2 - tied
    assert not any(p.requires_grad for p in quantized.values())
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == tied
    assert (logits(model) - logits(want)).abs().max() <= 1e-4


@pytest.mark.usefixtures("exact")
def test_save_and_load_again(folder: Path, tmp_path: Path) -> None:
    model = load(folder, RocmForgeConfig("Q4_0", modules_to_not_convert=["k_proj"]))
    assert not isinstance(model.model.layers[0].self_attn.k_proj.weight, GGUFTensor)
    model.save_pretrained(tmp_path)
    sizes = [sum(f.stat().st_size for f in p.glob("*.safetensors")) for p in (tmp_path, folder)]
    assert sizes[0] < 0.6 * sizes[1]
    again = load(tmp_path, None)
    for (name, a), (other, b) in zip(
        model.state_dict().items(), again.state_dict().items(), strict=True
    ):
        assert name == other
        assert type(a) is type(b)
        if isinstance(a, GGUFTensor):
            assert torch.equal(a.qweight, b.qweight)
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize(
    ("qtype", "problem"), [("Q4_Z", "unknown GGML type 'Q4_Z'"), ("F16", "quantized GGML type")]
)
def test_bad_types(qtype: str, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        RocmForgeConfig(qtype)
