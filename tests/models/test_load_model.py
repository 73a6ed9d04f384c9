"""load_model: what it refuses, and the plain PyTorch behaviour of what it returns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import TINY, build, write_gguf
from torch import nn

from rocmforge_torch import GGUFError, GGUFModelFile, load_gguf, load_model
from rocmforge_torch.models import ARCHITECTURES, DecoderConfig
from rocmforge_torch.models.decoder import Decoder
from rocmforge_torch.models.weights import Weights
from rocmforge_torch.nn import QuantLinear

LLAMA = build(TINY["llama"])


def write(path: Path, **options: Any) -> Path:
    return write_gguf(TINY["llama"], LLAMA, path / "model.gguf", **options)


def test_unknown_architecture(tmp_path: Path) -> None:
    path = tmp_path / "mamba.gguf"
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_tensor("token_embd.weight", np.ones((4, 8), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert load_gguf(path).tensors["token_embd.weight"].shape == (4, 8)
    with pytest.raises(GGUFError, match="no architecture 'mamba'; it supports llama, qwen2") as e:
        load_model(path)
    assert all(name in str(e.value) for name in ARCHITECTURES)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("block_count", None, "is missing, the model needs it"),
        ("block_count", 2**32 - 1, "from 1 to 4096, it is 4294967295"),
        ("attention.key_length", 2**32 - 1, "from 1 to 65536, it is 4294967295"),
        ("embedding_length", 2**31 - 1, "tensor 'token_embd.weight': must have shape"),
        ("feed_forward_length", 2**31 - 1, "tensor 'blk.0.ffn_down.weight': must have shape"),
        ("embedding_length", 0, "from 1 to 2147483647, it is 0"),
        ("attention.head_count", "four", "from 1 to .*, it is 'four'"),
        ("attention.head_count", 8, r"tensor 'blk.0.attn_q.weight': must have shape \[128, 64\]"),
        ("attention.head_count_kv", 3, "must divide the 4 heads, it is 3"),
        ("attention.head_count_kv", [2, 1, 2], "from 1 to .*, it is array"),
        ("attention.value_length", 8, "must be the key length, 16"),
        ("attention.layer_norm_rms_epsilon", None, "is missing"),
        ("attention.layer_norm_rms_epsilon", 0.0, "must be a positive number, it is 0.0"),
        ("attention.layer_norm_rms_epsilon", float("nan"), "must be a positive number"),
        ("rope.freq_base", float("inf"), "must be a finite number, it is inf"),
        ("rope.freq_base", 1.0, "must be greater than 1, it is 1.0"),
        ("attention.head_count", 65, "from 1 to 64, it is 65"),
        ("rope.dimension_count", 7, "must be even and at most the 16 dimensions"),
        ("rope.dimension_count", 18, "must be even and at most the 16 dimensions"),
        ("rope.scaling.type", "stretch", "must be one of"),
        ("rope.scaling.type", 3, "must be a string, it is 3"),
        ("rope.scaling.factor", -2.0, "must be positive and at most 1000000, it is -2.0"),
        ("rope.scaling.type", "longrope", "tensor 'rope_factors_short.weight': is missing"),
        ("expert_count", 8, "mixtures of experts are not supported"),
    ],
)
def test_bad_metadata(tmp_path: Path, key: str, value: Any, problem: str) -> None:
    path = write(tmp_path, keys={key: value})
    with pytest.raises(GGUFError, match=problem) as e:
        load_model(path)
    assert "model.gguf" in str(e.value)
    assert key in str(e.value) or "tensor" in problem


KEYS = [
    "context_length", "embedding_length", "feed_forward_length", "block_count",
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.value_length", "attention.layer_norm_rms_epsilon", "attention.scale",
    "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base",
    "rope.freq_base_swa", "rope.dimension_count", "rope.scaling.type", "rope.scaling.factor",
    "rope.scaling.original_context_length", "rope.scaling.attn_factor", "rope.scale_linear",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow", "embedding_scale",
    "residual_scale", "logit_scale", "final_logit_softcapping", "expert_count",
]  # fmt: skip
VALUES = (
    st.integers(-2, 130)
    | st.integers(0, 2**64 - 1)
    | st.floats()
    | st.sampled_from(["none", "linear", "ntk", "yarn", "longrope", "", "mean"])
    | st.booleans()
    | st.lists(st.integers(0, 9), max_size=4).map(np.array)
    | st.lists(st.booleans(), max_size=4).map(np.array)
)


@given(
    st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=4),
    st.sampled_from(sorted(ARCHITECTURES)),
)
@settings(max_examples=400, deadline=None)
def test_no_metadata_ends_in_anything_but_gguf_error(
    tiny_file: GGUFModelFile, values: dict[str, Any], architecture: str
) -> None:
    keys = {key: value for key, value in tiny_file.metadata.items() if key.startswith("llama.")}
    metadata = {
        "general.architecture": architecture,
        **{key.replace("llama", architecture): value for key, value in keys.items()},
        **{f"{architecture}.{key}": value for key, value in values.items()},
    }
    subject = "tensor"
    try:
        config = DecoderConfig.from_metadata(metadata)
        Decoder(config, Weights(tiny_file.tensors))
    except GGUFError as error:
        subject = error.subject
    assert subject.startswith(("key", "tensor"))


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> GGUFModelFile:
    return load_gguf(write(tmp_path_factory.mktemp("tiny")))


def test_one_value_for_every_layer_may_be_written_as_an_array(tmp_path: Path) -> None:
    model = load_model(write(tmp_path, keys={"attention.head_count_kv": [2, 2, 2]}))
    assert model.config.num_kv_heads == 2


@pytest.mark.parametrize(
    "name",
    ["token_embd.weight", "output_norm.weight", "blk.2.attn_k.weight", "blk.1.ffn_norm.weight"],
)
def test_missing_tensor(tmp_path: Path, name: str) -> None:
    def remove(tensors: dict[str, np.ndarray]) -> None:
        del tensors[name]

    path = write(tmp_path, change=remove)
    with pytest.raises(GGUFError, match=f"tensor '{name}': is missing"):
        load_model(path)


def test_wrong_shape(tmp_path: Path) -> None:
    def transpose(tensors: dict[str, np.ndarray]) -> None:
        tensors["blk.0.ffn_up.weight"] = np.ascontiguousarray(tensors["blk.0.ffn_up.weight"].T)

    with pytest.raises(
        GGUFError, match=r"blk.0.ffn_up.weight': must have .*\[80, 64\], .*\[64, 80\]"
    ):
        load_model(write(tmp_path, change=transpose))


def test_wrong_dtype(tmp_path: Path) -> None:
    def to_integers(tensors: dict[str, np.ndarray]) -> None:
        tensors["output.weight"] = tensors["output.weight"].astype(np.int8)

    with pytest.raises(GGUFError, match=r"tensor 'output.weight': weight must be"):
        load_model(write(tmp_path, change=to_integers))


def test_tensor_without_a_place(tmp_path: Path) -> None:
    def add(tensors: dict[str, np.ndarray]) -> None:
        tensors["blk.0.attn_sinks.weight"] = np.ones(4, np.float32)

    with pytest.raises(GGUFError, match=r"attn_sinks.weight': is no part of the model"):
        load_model(write(tmp_path, change=add))


def test_half_precision_vectors_are_read(tmp_path: Path) -> None:
    def halve(tensors: dict[str, np.ndarray]) -> None:
        tensors["output_norm.weight"] = tensors["output_norm.weight"].astype(np.float16)

    model = load_model(write(tmp_path, change=halve))
    assert model.output_norm.weight.dtype == torch.float32


def test_dtype_of_activations(tmp_path: Path) -> None:
    path = write(tmp_path)
    ids = torch.tensor([[1, 2, 3]])
    with torch.inference_mode():
        want = load_model(path)(ids)
        for dtype in (torch.float16, torch.bfloat16):
            got = load_model(path, dtype=dtype)(ids)
            assert got.dtype == dtype
            assert (got.float() - want).abs().mean() < 0.05 * want.std()
    with pytest.raises(ValueError, match="dtype must be one of"):
        load_model(path, dtype=torch.int8)


def test_it_is_an_ordinary_module(tmp_path: Path) -> None:
    model = load_model(write(tmp_path))
    assert isinstance(model, nn.Module)
    assert not model.training
    linears = [m for m in model.modules() if isinstance(m, QuantLinear)]
    assert len(linears) == 3 * 4 + 1
    ids = torch.tensor([[5, 6, 7]])
    seen = []
    model.layers[1].mlp.register_forward_hook(lambda m, args, out: seen.append(out.shape))
    with torch.inference_mode():
        before = model(ids)
        torch.nn.init.zeros_(model.layers[2].attn_norm.weight)
        assert not torch.equal(model(ids), before)
    assert seen == [(1, 3, 64)] * 2


def test_fusing_changes_no_number_and_no_name(tmp_path: Path) -> None:
    path = write(tmp_path)
    apart, fused = load_model(path, fuse=False), load_model(path, fuse=True)
    assert sum(isinstance(m, QuantLinear) for m in apart.modules()) == 3 * 7 + 1
    ids = torch.tensor([[5, 6, 7]])
    with torch.inference_mode():
        assert torch.equal(fused(ids), apart(ids))
    mine, theirs = fused.state_dict(), apart.state_dict()
    assert sorted(mine) == sorted(theirs)
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    tensor = fused.file.tensors["blk.1.ffn_up.weight"]
    blocks = mine["layers.1.mlp.gate_up.1.qweight"]
    assert torch.equal(blocks.view(torch.float32), tensor)
    other = load_model(path, fuse=False)
    for value in other.state_dict().values():
        value.zero_()
    other.load_state_dict(mine)
    other.fuse_().load_state_dict(theirs)
    with torch.inference_mode():
        assert torch.equal(other(ids), apart(ids))


def test_large_files_stay_mapped_unless_asked(tmp_path: Path, monkeypatch: Any) -> None:
    from rocmforge_torch.models import causal_lm

    path = write(tmp_path)
    monkeypatch.setattr(causal_lm, "_memory", lambda: 2 * load_gguf(path).nbytes - 1)
    assert len(load_model(path).layers[0].mlp.gate_up) == 2
    assert len(load_model(path, fuse=True).layers[0].mlp.gate_up) == 1
    monkeypatch.setattr(causal_lm, "_memory", lambda: 2 * load_gguf(path).nbytes)
    assert len(load_model(path).layers[0].mlp.gate_up) == 1


def test_it_compiles_to_one_graph(tmp_path: Path) -> None:
    model = load_model(write(tmp_path))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        assert torch.equal(compiled(ids), model(ids))
        caches = [model.new_cache(max_seq_len=8) for _ in range(2)]
        assert torch.equal(compiled(ids, caches[0]), model(ids, caches[1]))
        assert caches[0].lengths.tolist() == [4]


@pytest.mark.parametrize(
    "ids",
    [torch.zeros(3, dtype=torch.int64), torch.zeros(1, 0, dtype=torch.int64), torch.zeros(1, 3)],
)
def test_bad_input_ids(tmp_path: Path, ids: torch.Tensor) -> None:
    model = load_model(write(tmp_path))
    with pytest.raises(ValueError, match=r"input_ids must be int \[B, T\]"):
        model(ids)


def test_no_memory_for_the_cache(tmp_path: Path) -> None:
    model = load_model(write(tmp_path))
    with pytest.raises(MemoryError, match=r"a KV cache of 1 x 1000000000000 tokens takes .* GiB"):
        model.new_cache(1, 10**12)


def test_cache_of_another_batch(tmp_path: Path) -> None:
    model = load_model(write(tmp_path))
    with pytest.raises(ValueError, match="the cache holds 2 sequences, input_ids 1"):
        model(torch.zeros(1, 3, dtype=torch.int64), model.new_cache(2, 8))
    with pytest.raises(ValueError, match="must be positive, got 0 and 8"):
        model.new_cache(0, 8)


@pytest.mark.parametrize("name", TINY)
def test_every_tensor_is_made_on_the_models_device(tmp_path: Path, name: str) -> None:
    """On "meta" nothing is computed, but every op checks that its arguments are on one device."""
    tiny = TINY[name]
    path = write_gguf(tiny, build(tiny), tmp_path / "model.gguf")
    model = load_model(path, device="meta")
    ids = torch.zeros(2, 5, dtype=torch.int64, device="meta")
    with torch.inference_mode():
        for logits in (model(ids), model(ids, model.new_cache(2, 8))):
            assert (logits.device.type, logits.dtype) == ("meta", torch.bfloat16)
            assert logits.shape == (2, 5, 96)
