"""transformers' own GGUF loader on our kernels, against the weights that the file was made of."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
import transformers
from transformers.integrations.gguf import kernels
from transformers.integrations.gguf import utils as layers

from rocmforge_torch.integrations.transformers import disable, enable, kernel

Q8_0 = gguf.GGMLQuantizationType.Q8_0
Q4_K = 12
ARCH = "lfm2"  # one of the three that transformers keeps packed


@pytest.fixture
def enabled() -> Iterator[None]:
    with enable():
        yield


@pytest.fixture(scope="module")
def lfm2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A tiny random LFM2 on the numbers that its Q8_0 file holds, and that file."""
    config = transformers.Lfm2Config(
        vocab_size=96, hidden_size=64, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        block_auto_adjust_ff_dim=False, conv_L_cache=3, tie_word_embeddings=True,
        layer_types=["conv", "full_attention", "conv"],
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    model = transformers.Lfm2ForCausalLM(config).eval()
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LFM2, 3)
    path = tmp_path_factory.mktemp("lfm2") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, ARCH)
    for key, value in {
        "context_length": 128, "embedding_length": 64, "feed_forward_length": 96, "block_count": 3,
        "attention.head_count": 4, "shortconv.l_cache": 3,
    }.items():  # fmt: skip
        writer.add_uint32(f"{ARCH}.{key}", value)
    writer.add_array(f"{ARCH}.attention.head_count_kv", [0, 2, 0])
    writer.add_float32(f"{ARCH}.attention.layer_norm_rms_epsilon", config.norm_eps)
    writer.add_float32(f"{ARCH}.rope.freq_base", 1e6)
    writer.add_array("tokenizer.ggml.tokens", [str(i) for i in range(96)])
    generator = torch.Generator().manual_seed(0)
    for key, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        values = (noise * (0.2 if parameter.dim() > 1 else 0.3) + (parameter.dim() == 1)).numpy()
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name is not None, key
        if parameter.dim() == 2:
            blocks = gguf.quants.quantize(values, Q8_0)
            writer.add_tensor(name, blocks, raw_dtype=Q8_0)
            values = gguf.quants.dequantize(blocks, Q8_0)
        else:
            writer.add_tensor(name, values.squeeze(1) if values.ndim == 3 else values)
        parameter.data = torch.from_numpy(np.array(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model, path


def load(path: Path) -> Any:
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, attn_implementation="eager"
    )


@pytest.mark.usefixtures("enabled", "exact")
@pytest.mark.parametrize("length", [1, 8, 40])
def test_weights_stay_packed(lfm2: tuple[Any, Path], length: int, monkeypatch: Any) -> None:
    theirs, path = lfm2
    model = load(path)
    packed = [m for m in model.modules() if isinstance(m, layers.GgufLinear | layers.GgufEmbedding)]
    assert len(packed) == 2 + 3 * 3 + 4 + 2 * 2  # embedding and output, w1 to w3, qkvo, in and out
    assert all(m.weight.dtype == torch.uint8 for m in packed)

    def unpacks(*args: Any, **kw: Any) -> Any:
        raise AssertionError("a weight was unpacked")

    monkeypatch.setattr(layers.GgufLinear, "_unpack_matmul", unpacks)
    monkeypatch.setattr(kernels, "dequantize", unpacks)
    ids = torch.randint(96, (2, length), generator=torch.Generator().manual_seed(length))
    with torch.inference_mode():
        got, want = (m(ids, use_cache=False).logits for m in (model, theirs))
    assert want.std() > 0.1
    assert (got - want).abs().max() <= 1e-4


@pytest.mark.usefixtures("enabled", "exact")
def test_generate(lfm2: tuple[Any, Path]) -> None:
    theirs, path = lfm2
    options: Any = {"max_new_tokens": 12, "do_sample": False}
    ids = torch.tensor([[5, 9, 33, 2, 71, 8, 8, 40, 12]])
    assert torch.equal(load(path).generate(ids, **options), theirs.generate(ids, **options))


def random_blocks(*shape: int) -> torch.Tensor:
    """Q4_K of random numbers, uint8 [..., rows, row_bytes]."""
    generator = torch.Generator().manual_seed(1)
    return torch.ops.rocmforge.quantize(torch.randn(shape, generator=generator), Q4_K)


@pytest.mark.usefixtures("enabled", "exact")
@pytest.mark.parametrize("tokens", [1, 2, 50])
def test_experts(tokens: int) -> None:
    """transformers' module of packed experts, few tokens and many, against float64."""
    experts, hidden, inner, top_k = 6, 256, 256, 2
    module = layers.GgufExperts(experts, hidden, inner, Q4_K, Q4_K, torch.nn.functional.silu)
    for name, rows in (("gate_up_proj", 2 * inner), ("down_proj", hidden)):
        blocks = random_blocks(experts, rows, 256)
        setattr(module, name, torch.nn.Parameter(blocks, requires_grad=False))
    generator = torch.Generator().manual_seed(tokens)
    x = torch.randn(tokens, hidden, generator=generator)
    scores = torch.randn(tokens, experts, generator=generator).softmax(-1)
    weights, ids = scores.topk(top_k)
    got = module(x, ids, weights)
    gate_up, down = (
        torch.ops.rocmforge.dequantize(p.data, Q4_K, torch.float32).double()
        for p in (module.gate_up_proj, module.down_proj)
    )
    gate, up = torch.einsum("th,tkoh->tko", x.double(), gate_up[ids]).chunk(2, -1)
    inside = torch.nn.functional.silu(gate) * up
    want = (torch.einsum("tki,tkoi->tko", inside, down[ids]) * weights[..., None]).sum(1)
    # Two float32 sums of 256 products each: errors of about sqrt(256) roundings of their terms.
    torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5 * want.std().item())


def test_functions_of_the_kernel() -> None:
    blocks = random_blocks(20, 512)
    values = torch.ops.rocmforge.dequantize(blocks, Q4_K, torch.float32)
    assert torch.equal(kernel.dequantize(blocks, Q4_K, 20, 512, torch.float32), values)
    rows = torch.tensor([3, 19, 3])
    got = kernel.get_rows(blocks, rows, Q4_K, 512, torch.bfloat16)
    assert torch.equal(got, values[rows].bfloat16())
    assert Q4_K in kernel.GEMV_TYPES
    assert 0 not in kernel.GEMV_TYPES


def state() -> tuple[Any, ...]:
    return kernels._gguf_kernel, kernels.kernel_can_read, layers.MAX_GEMV_ROWS


def test_disable_restores_everything() -> None:
    before = state()
    enable()
    enable()
    assert state() != before
    disable()
    assert state() == before
    disable()
    assert state() == before
    with enable():
        assert kernels.get_gguf_kernel().supports(Q4_K)
    assert state() == before


def test_older_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers.integrations.gguf.kernels", None)
    with pytest.raises(ImportError, match=r"has no GGUF loader that takes a kernel; 5\.23"):
        enable()
    importlib.invalidate_caches()
