"""examples/patch_heads.py on the demo model: the file without a head predicts as the hook did."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from examples import patch_heads
from rocmforge_torch import GGUFTensor, load_gguf


def test_patch_heads(demo_model_path: Path, tmp_path: Path) -> None:
    target = tmp_path / "patched.gguf"
    found = patch_heads.main(str(demo_model_path), str(target))
    assert found["hook"][found["head"]] == max(found["hook"]) > 0.01
    assert found["file"] == pytest.approx(found["hook"][found["head"]], rel=1e-3)
    assert 0 < found["coarse"] < found["file"]

    name = f"blk.{patch_heads.LAYER}.attn_output.weight"
    old, new = load_gguf(demo_model_path), load_gguf(target)
    assert list(old.tensors) == list(new.tensors)
    differing = [key for key in old.tensors if not same(old.tensors[key], new.tensors[key])]
    assert differing == [name]
    before, after = (
        gguf.quants.dequantize(t.qweight.numpy(), gguf.GGMLQuantizationType(t.qtype))
        for t in (old.tensors[name], new.tensors[name])
    )
    dim = new.metadata["gemma3.attention.key_length"]
    head = slice(found["head"] * dim, (found["head"] + 1) * dim)
    assert not after[:, head].any()
    assert np.array_equal(np.delete(after, head, axis=1), np.delete(before, head, axis=1))


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    if isinstance(one, GGUFTensor) and isinstance(other, GGUFTensor):
        return one.qtype == other.qtype and torch.equal(one.qweight, other.qweight)
    return torch.equal(one, other)
