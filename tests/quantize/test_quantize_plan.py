"""Which types tensors get: against files that llama.cpp wrote, and llama.cpp itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import pytest
import torch

from rocmforge_torch import load_gguf
from rocmforge_torch.gguf.lazy_tensor import LazyTensor, lazy_tensors
from rocmforge_torch.quant_types import quant_type
from rocmforge_torch.quantize import plan, recipe, target_types
from rocmforge_torch.quantize.mixes import MIXES

LAYERS = 32
PARTS = {
    "attn_q": (512, 512), "attn_k": (128, 512), "attn_v": (128, 512), "attn_output": (512, 512),
    "ffn_gate": (1024, 512), "ffn_up": (1024, 512), "ffn_down": (512, 1024), "attn_norm": (512,),
}  # fmt: skip
# gguf-py's names of file types, where they are not the mixes' own.
FILE_TYPES = {"F32": "ALL_F32", "Q2_K_S": "MOSTLY_Q2_K_S", "Q1_0": None}


def model(parts: dict[str, tuple[int, ...]] = PARTS, tied: bool = False) -> list[LazyTensor]:
    shapes = {"token_embd": (1000, 512)} | ({} if tied else {"output": (1000, 512)})
    for layer in range(LAYERS):
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in parts.items()}
    return [
        LazyTensor(f"{name}.weight", quant_type("F32"), shape, lambda: torch.zeros(0))
        for name, shape in shapes.items()
    ]


def metadata(heads: int = 8, kv_heads: int = 8, **more: int) -> dict[str, Any]:
    keys = {"block_count": LAYERS, "attention.head_count": heads,
            "attention.head_count_kv": kv_heads} | more  # fmt: skip
    return {"general.architecture": "llama"} | {f"llama.{k}": v for k, v in keys.items()}


def types(
    name: str, tensors: list[LazyTensor], keys: dict[str, Any], **more: Any
) -> dict[str, str]:
    plans = plan(tensors, keys, recipe(name), **more)
    return {p.source.name.removesuffix(".weight"): p.target.name for p in plans}


def layers(found: dict[str, str], part: str, name: str) -> list[int]:
    return [i for i in range(LAYERS) if found[f"blk.{i}.{part}"] == name]


def test_the_demo_model_gets_the_types_that_llama_cpp_gave_it(demo_model_path: Path) -> None:
    file = load_gguf(demo_model_path)
    plans = plan(lazy_tensors(file), file.metadata, recipe("Q4_K_M"))
    assert len({p.target.name for p in plans}) == 5
    assert [p.source.name for p in plans if p.changes] == []
    assert file.metadata["general.file_type"] == recipe("Q4_K_M").mix.file_type


def test_q4_k_m_of_32_layers() -> None:
    """Published Q4_K_M files of 32 layers have Q6_K in these layers of attn_v and ffn_down."""
    found = types("Q4_K_M", model(), metadata())
    more = [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]
    for part in ("attn_v", "ffn_down"):
        assert layers(found, part, "Q6_K") == more
        assert len(layers(found, part, "Q4_K")) == LAYERS - len(more)
    for part in ("attn_q", "attn_k", "attn_output", "ffn_up", "ffn_gate"):
        assert len(layers(found, part, "Q4_K")) == LAYERS
    assert found["output"] == "Q6_K"
    assert found["token_embd"] == "Q4_K"
    assert found["blk.0.attn_norm"] == "F32"


def test_rules() -> None:
    assert types("q4_k", model(), metadata()) == types("Q4_K_M", model(), metadata())
    q3 = types("Q3_K_M", model(), metadata())
    assert (layers(q3, "attn_v", "Q5_K"), layers(q3, "ffn_down", "Q5_K")) == ([0, 1], [0, 1])
    assert len(layers(q3, "attn_output", "Q4_K")) == LAYERS
    shared = metadata(heads=8, kv_heads=2)
    assert layers(types("Q2_K", model(), metadata()), "attn_v", "Q3_K") == list(range(LAYERS))
    assert layers(types("Q2_K", model(), shared), "attn_v", "Q4_K") == list(range(LAYERS))
    assert layers(types("Q4_K_S", model(), metadata()), "attn_v", "Q5_K") == [0, 1, 2, 3]
    # With importance the first layers of Q4_0 keep offsets, and IQ4_XS needs no more bits there.
    q4 = types("Q4_0", model(), metadata(), imatrix=True)
    assert layers(q4, "ffn_down", "Q4_1") == [0, 1, 2, 3]
    assert layers(types("Q4_0", model(), metadata()), "ffn_down", "Q4_1") == []
    assert layers(types("IQ4_XS", model(), metadata()), "ffn_down", "Q5_K") == [0, 1, 2, 3]
    assert layers(types("IQ4_XS", model(), metadata(), imatrix=True), "ffn_down", "Q5_K") == []
    experts = types("Q4_K_M", model(), metadata(expert_count=8))
    assert layers(experts, "attn_k", "Q8_0") == list(range(LAYERS))
    assert layers(experts, "attn_output", "Q5_K") == list(range(LAYERS))
    assert layers(experts, "ffn_down", "Q6_K")


def test_output_and_embedding() -> None:
    tied = types("Q4_K_M", model(tied=True), metadata())
    assert tied["token_embd"] == "Q6_K"
    assert types("Q8_0", model(), metadata())["output"] == "Q8_0"
    assert types("TQ2_0", model(), metadata())["token_embd"] == "Q4_K"
    odd = {"attn_v": (64, 96)}
    shapes = [
        LazyTensor(t.name, t.qtype, (10, 96), t.load) for t in model(odd) if "blk" not in t.name
    ]
    # Rows of 96 hold no block of 256: the output takes 8 bits, others 32 a block.
    found = types("Q3_K_M", shapes, metadata())
    assert found == {"token_embd": "Q4_0", "output": "Q8_0"}
    plans = plan(model(), metadata(), recipe("Q4_K_M", output="F16", token_embedding="q8_0"))
    assert [p.target.name for p in plans[:2]] == ["Q8_0", "F16"]


def test_pure() -> None:
    plans = plan(model(), metadata(), recipe("Q3_K_L", pure=True))
    matrices = {p.target.name for p in plans if len(p.source.shape) == 2}
    assert matrices == {"Q3_K"}
    assert recipe("Q3_K_L", pure=True).name == "Q3_K"
    assert recipe("NVFP4").mix.output == "NVFP4"


@pytest.mark.parametrize("name", MIXES)
def test_every_mix_can_be_written_and_is_numbered_as_gguf_py_has_it(name: str) -> None:
    mix = MIXES[name]
    used = {mix.type, mix.output, mix.embedding or mix.type, *(rule.type for rule in mix.rules)}
    assert used <= set(target_types())
    known = FILE_TYPES.get(name, f"MOSTLY_{name}")
    if known is not None:
        assert gguf.LlamaFileType[known] == mix.file_type


@pytest.mark.parametrize("name", ["Q4_K_XL", "IQ1_S", "Q8_K"])
def test_what_cannot_be_written_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is no type .*Q4_K_M"):
        recipe(name)
