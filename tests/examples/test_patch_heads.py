"""examples/patch_heads.py on the demo model: the file without a head predicts as the hook did."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import gguf
import numpy as np
import pytest

from rocmforge_torch import load_gguf

EXAMPLE = Path(__file__).parents[2] / "examples" / "patch_heads.py"


def test_patch_heads(demo_model_path: Path, tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("patch_heads", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)

    target = tmp_path / "patched.gguf"
    found = example.main(str(demo_model_path), str(target))
    assert found["hook"][found["head"]] == max(found["hook"]) > 0.01
    assert found["file"] == pytest.approx(found["hook"][found["head"]], rel=1e-3)
    assert 0 < found["coarse"] < found["file"]

    name = f"blk.{example.LAYER}.attn_output.weight"
    old, new = (
        {t.name: t for t in gguf.GGUFReader(path).tensors} for path in (demo_model_path, target)
    )
    differing = [key for key in old if not np.array_equal(old[key].data, new[key].data)]
    assert differing == [name]
    values = gguf.quants.dequantize(new[name].data, new[name].tensor_type)
    dim = load_gguf(target).metadata["gemma3.attention.key_length"]
    head = slice(found["head"] * dim, (found["head"] + 1) * dim)
    assert not values[:, head].any()
    kept = np.delete(values, head, axis=1)
    before = gguf.quants.dequantize(old[name].data, old[name].tensor_type)
    assert np.array_equal(kept, np.delete(before, head, axis=1))
