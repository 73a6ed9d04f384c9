"""Collected importance against what enters the linear layers of transformers' own model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import TINY, VOCAB, build, write_gguf

from rocmforge_torch import load_model
from rocmforge_torch.quantize.collect import Collector

pytestmark = pytest.mark.usefixtures("exact")
LINEARS = {
    "q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output",
    "qkv_proj": "attn_qkv", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "c_fc": "ffn_up",
    "gate_up_proj": "ffn_up", "down_proj": "ffn_down", "c_proj": "ffn_down",
}  # fmt: skip


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "gemma3", "phi3", "starcoder2"])
@pytest.mark.parametrize("fuse", [False, True])
def test_mean_squares(name: str, fuse: bool, tmp_path: Path) -> None:
    tiny = TINY[name]
    theirs = build(tiny)
    ours = load_model(write_gguf(tiny, theirs, tmp_path / "tiny.gguf"), fuse=fuse)
    expected: dict[str, torch.Tensor] = {}

    def watch(gguf_name: str) -> Any:
        def hook(module: Any, args: Any) -> None:
            expected[gguf_name] = args[0].double().flatten(0, -2).square().mean(0)

        return hook

    for key, module in theirs.named_modules():
        if isinstance(module, torch.nn.Linear) and key != "lm_head":
            layer, part = key.split(".")[2], LINEARS[key.split(".")[-1]]
            module.register_forward_pre_hook(watch(f"blk.{layer}.{part}.weight"))
    ids = torch.randint(VOCAB, (2, 24), generator=torch.Generator().manual_seed(1))
    theirs(ids, use_cache=False)
    collector = Collector(ours)
    with collector.watching():
        collector.run(ids[:1])
        collector.run(ids[1:])
    ours(ids)  # is not counted any more
    found = collector.importance("text", 2, 24)
    assert set(found.means) == set(expected)
    for key, mean in expected.items():
        torch.testing.assert_close(found.means[key][0].double(), mean, rtol=1e-3, atol=1e-6)
        assert found.counts[key].tolist() == [48.0]


@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "llama-tied-wide"])
def test_output_is_collected_when_asked_for(name: str, tmp_path: Path) -> None:
    ours = load_model(write_gguf(TINY[name], build(TINY[name]), tmp_path / "tiny.gguf"))
    collector = Collector(ours, process_output=True)
    with collector.watching():
        collector.run(torch.arange(10)[None])
    key = "output.weight" if name == "llama" else "token_embd.weight"
    assert collector.importance("", 1, 10).means[key].shape == (1, 64)
