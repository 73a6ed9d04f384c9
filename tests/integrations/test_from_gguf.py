"""transformers' models on a GGUF file, against our decoder on it and transformers' own weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from tiny_models import TINY, VOCAB, build, write_gguf
from torch.nn import functional
from transformers import StaticCache

from rocmforge_torch import GGUFError, GGUFTensor, load_model
from rocmforge_torch.generate import SamplingParams, generate_tokens
from rocmforge_torch.integrations.transformers import from_gguf
from rocmforge_torch.integrations.transformers.model_table import MODELS
from rocmforge_torch.models import ARCHITECTURES

TOLERANCE = 1e-4  # of tests/models/test_architectures.py
Q8_0 = gguf.GGMLQuantizationType.Q8_0


def ids(batch: int, length: int) -> torch.Tensor:
    return torch.randint(VOCAB, (batch, length), generator=torch.Generator().manual_seed(length))


def write(name: str, folder: Path, **options: Any) -> tuple[Any, Path]:
    theirs = build(TINY[name])
    return theirs, write_gguf(TINY[name], theirs, folder / f"{name}.gguf", **options)


def test_every_architecture_has_a_row() -> None:
    assert set(MODELS) == set(ARCHITECTURES)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("name", TINY)
def test_logits(name: str, tmp_path: Path) -> None:
    """In Q8_0 against our decoder, in float32 against the model that the file was made of; beyond
    windows (8) and original contexts (32)."""
    theirs, path = write(name, tmp_path)
    input_ids = ids(2, 70)
    with torch.inference_mode():
        got = from_gguf(path)(input_ids, use_cache=False).logits
        want = theirs(input_ids, use_cache=False).logits
        assert (got - want).abs().max() <= TOLERANCE
        assert want.std() > 0.1

        path = write_gguf(TINY[name], theirs, tmp_path / "q8_0.gguf", qtype=Q8_0)
        model = from_gguf(path)
        got, ours = model(input_ids, use_cache=False).logits, load_model(path)(input_ids)
    assert type(model).__name__ == type(theirs).__name__.replace("Mistral", "Llama")
    holders = [m for m in model.modules() if isinstance(m._parameters.get("weight"), GGUFTensor)]
    assert {type(m) for m in holders} <= {torch.nn.Linear, type(model.model.embed_tokens)}
    assert len(holders) >= 3 * len(model.model.layers)
    assert not any(p.requires_grad for p in model.parameters())
    got, ours = got.log_softmax(-1), ours.log_softmax(-1)
    assert (got - ours).abs().max() <= TOLERANCE


@pytest.mark.usefixtures("exact")
def test_generate_with_any_cache(tmp_path: Path) -> None:
    """Greedy tokens equal those of our engine, with a growing and with a static cache."""
    _, path = write("gemma3", tmp_path, qtype=Q8_0)
    model, prompt = from_gguf(path), ids(2, 12)
    params = SamplingParams(temperature=0, max_tokens=16)
    *_, last = generate_tokens(load_model(path), prompt.tolist(), params, cache_dtype="f32")
    options: dict[str, Any] = {"max_new_tokens": 16, "do_sample": False}
    for cache in ("dynamic", "static"):
        got = model.generate(prompt, cache_implementation=cache, disable_compile=True, **options)
        assert got[:, 12:].tolist() == [generation.tokens for generation in last]


@pytest.mark.usefixtures("exact")
def test_gradients_reach_adapters(tmp_path: Path) -> None:
    """Of a low-rank side path beside a projection of the first layer, against the same beside
    dequantized weights; the base gets none."""
    _, path = write("llama", tmp_path, qtype=Q8_0)
    grads = []
    for plain in (True, False):
        model = from_gguf(path)
        if plain:
            for module in model.modules():
                weight = module._parameters.get("weight")
                if isinstance(weight, GGUFTensor):
                    module.weight = torch.nn.Parameter(weight.dequantize(), requires_grad=False)
        proj = model.model.layers[0].self_attn.q_proj
        down = torch.linspace(-1, 1, 64).view(1, 64).requires_grad_()
        up = torch.linspace(1, -1, 64).view(64, 1).requires_grad_()
        proj.register_forward_hook(lambda _, x, y, a=down, b=up: y + x[0] @ a.T @ b.T)
        scores = model(ids(2, 20)).logits
        functional.cross_entropy(scores.flatten(0, 1), ids(2, 20).flatten()).backward()
        assert all(p.grad is None for p in model.parameters())
        assert down.grad is not None
        assert up.grad is not None
        grads.append(torch.cat([down.grad.flatten(), up.grad.flatten()]))
    assert grads[0].abs().min() > 0
    torch.testing.assert_close(grads[1], grads[0], rtol=1e-3, atol=1e-4 * grads[0].std().item())


def test_weights_are_the_mapped_file(tmp_path: Path) -> None:
    """All but the rows of queries and keys, which change places."""
    _, path = write("llama", tmp_path, qtype=Q8_0)
    model = from_gguf(path)
    lines = Path("/proc/self/maps").read_text().splitlines()
    maps = [[int(end, 16) for end in x.split()[0].split("-")] for x in lines if str(path) in x]
    assert maps
    for name, p in model.named_parameters():
        if isinstance(p, GGUFTensor):
            inside = any(start <= p.qweight.data_ptr() < end for start, end in maps)
            assert inside == (".q_proj." not in name and ".k_proj." not in name)


def test_decoding_with_a_static_cache_compiles(tmp_path: Path) -> None:
    """One graph, without breaks; two steps, one compilation."""
    _, path = write("qwen3", tmp_path, qtype=Q8_0)
    model, input_ids = from_gguf(path), ids(1, 9)
    cache = StaticCache(model.config, max_cache_len=16)
    step = torch.compile(model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        want = model(input_ids, use_cache=False).logits
        model(input_ids[:, :7], past_key_values=cache)
        for t in (7, 8):
            position = torch.tensor([[t]])
            got = step(input_ids[:, t : t + 1], position_ids=position, past_key_values=cache)
            torch.testing.assert_close(got.logits[0, 0], want[0, t], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("name", "keys", "problem"),
    [
        ("llama", {"logit_scale": 2.0}, "logit_scale 2.0, which transformers' LlamaForCausalLM"),
        ("qwen2", {"rope.dimension_count": 8}, "rotation of 8 of 16 dimensions"),
        ("gemma3", {"residual_scale": 0.5}, "residual_scale 0.5"),
    ],
)
def test_what_transformers_does_not_compute(
    name: str, keys: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    _, path = write(name, tmp_path, keys=keys)
    with pytest.raises(GGUFError, match=problem):
        from_gguf(path)


def test_bad_calls(tmp_path: Path) -> None:
    _, path = write("llama", tmp_path, change=lambda tensors: tensors.pop("blk.1.ffn_up.weight"))
    with pytest.raises(GGUFError, match=r"blk\.1\.ffn_up\.weight.* is missing"):
        from_gguf(path)
    with pytest.raises(ValueError, match="dtype must be one of"):
        from_gguf(path, dtype=torch.float64)
