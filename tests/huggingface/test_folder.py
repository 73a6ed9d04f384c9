"""Folders that are no model, or none with a GGUF form, end in one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rocmforge_torch.huggingface import FolderError, folder_metadata, open_folder


def complaint(path: Path) -> str:
    with pytest.raises(FolderError) as caught:
        folder_metadata(open_folder(path))
    return str(caught.value)


def test_files(tmp_path: Path, make_folder: Any) -> None:
    assert "no config.json" in complaint(tmp_path)
    path = make_folder()
    (path / "config.json").write_text("{")
    assert "config.json: no valid JSON" in complaint(path)
    (path / "config.json").write_text("[]")
    assert "must hold an object, it holds list" in complaint(path)
    path = make_folder()
    (path / "model.safetensors").write_bytes(b"nothing")
    assert "model.safetensors: " in complaint(path)
    (path / "model.safetensors").unlink()
    assert "only safetensors are read" in complaint(path)
    index = {"weight_map": {"a": "../../model-00001-of-00002.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "model-00001-of-00002.safetensors is missing" in complaint(path)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"model_type": "mamba"}, "model_type 'mamba' is not supported; supported are llama, "),
        ({"quantization_config": {"bits": 4}}, "are quantized already"),
        ({"hidden_size": None}, "hidden_size must be a positive whole number, it is None"),
        ({"rms_norm_eps": None}, "needs one of rms_norm_eps"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rope type 'dynamic' has no GGUF"),
        (
            {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "truncate": False}},
            "without truncation",
        ),
    ],
)
def test_configurations(make_folder: Any, config: dict[str, Any], words: str) -> None:
    assert words in complaint(make_folder(**config))


def test_keys_of_older_configurations(make_folder: Any) -> None:
    """Before transformers 5 the parts of a rotation were spread over the configuration."""
    old = make_folder(
        rope_theta=5e5,
        rope_scaling={"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32},
        partial_rotary_factor=0.5,
    )
    keys = folder_metadata(open_folder(old))
    rope = {"rope_type": "yarn", "rope_theta": 5e5, "factor": 4.0, "partial_rotary_factor": 0.5,
            "original_max_position_embeddings": 32}  # fmt: skip
    assert folder_metadata(open_folder(make_folder(rope_theta=None, rope_parameters=rope))) == keys
    assert keys["llama.rope.freq_base"] == 5e5
    assert keys["llama.rope.dimension_count"] == 8
    assert keys["llama.rope.scaling.original_context_length"] == 32
    assert keys["general.name"] == "folder"


def test_attention_factor_of_two_scales(make_folder: Any) -> None:
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
    from transformers.models.llama.configuration_llama import LlamaConfig

    rope = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "mscale": 0.7,
            "mscale_all_dim": 1.3, "original_max_position_embeddings": 32}  # fmt: skip
    config = LlamaConfig(rope_parameters=rope, hidden_size=64, num_attention_heads=4)
    _, expected = ROPE_INIT_FUNCTIONS["yarn"](config, "cpu")
    keys = folder_metadata(open_folder(make_folder(rope_parameters=rope)))
    assert keys["llama.rope.scaling.yarn_attn_factor"] == pytest.approx(expected)


def test_unusual_windows_are_said(make_folder: Any) -> None:
    pattern = ["full_attention", "sliding_attention"]
    rope = {"rope_type": "default", "rope_theta": 1e4}
    base = {"model_type": "gemma3_text", "head_dim": 16, "rope_parameters": rope}
    keys = folder_metadata(open_folder(make_folder(**base, layer_types=pattern, sliding_window=8)))
    assert keys["gemma3.attention.sliding_window_pattern"] == [False, True]
    assert keys["gemma3.attention.sliding_window"] == 8
    assert keys["gemma3.attention.scale"] == pytest.approx(256**-0.5)
    usual = folder_metadata(open_folder(make_folder(**base, layer_types=["sliding_attention"] * 2)))
    assert "gemma3.attention.sliding_window_pattern" not in usual


def test_chat_templates(make_folder: Any) -> None:
    folder = make_folder()
    stored = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    for settings in ({"chat_template": "a"}, {"chat_template": stored}):
        (folder / "tokenizer_config.json").write_text(json.dumps(settings))
        (folder / "tokenizer.json").write_text(TOKENIZER)
        assert folder_metadata(open_folder(folder))["tokenizer.chat_template"] == "a"
    keys = folder_metadata(open_folder(folder))
    assert keys["tokenizer.chat_template.tool_use"] == "b"
    assert keys["tokenizer.chat_templates"] == ["tool_use"]
    (folder / "chat_template.jinja").write_text("c")
    assert folder_metadata(open_folder(folder))["tokenizer.chat_template"] == "c"


TOKENIZER = json.dumps(
    {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [],
        "normalizer": None, "post_processor": None, "decoder": None,
        "pre_tokenizer": {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
        "model": {"type": "Unigram", "unk_id": 0, "vocab": [["<unk>", 0.0], ["a", -1.0]]},
    }
)  # fmt: skip
