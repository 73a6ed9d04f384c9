"""Finds the tiny models and tokenizers; makes folders."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
sys.path.insert(0, str(Path(__file__).parents[1] / "gguf"))

MakeFolder = Callable[..., Path]
CONFIG = {
    "model_type": "llama", "vocab_size": 96, "hidden_size": 64, "intermediate_size": 80,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "max_position_embeddings": 128, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
}  # fmt: skip


@pytest.fixture
def make_folder(tmp_path: Path) -> MakeFolder:
    """Makes a folder of a llama without weights, or with those given; None removes a key."""

    def make(tensors: dict[str, Any] | None = None, /, **config: Any) -> Path:
        path = tmp_path / "folder"
        path.mkdir(exist_ok=True)
        merged = {k: v for k, v in (CONFIG | config).items() if v is not None}
        (path / "config.json").write_text(json.dumps(merged))
        save_file(tensors or {}, path / "model.safetensors")
        return path

    return make
