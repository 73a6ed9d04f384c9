"""GGUF keys from config.json."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from .folder import CONFIG, Folder
from .tokenizer import tokenizer_metadata

# GGUF key -> the names that config.json may have it under.
REQUIRED = {
    "context_length": ("max_position_embeddings",),
    "embedding_length": ("hidden_size",),
    "feed_forward_length": ("intermediate_size",),
    "block_count": ("num_hidden_layers",),
    "attention.head_count": ("num_attention_heads",),
    "vocab_size": ("vocab_size",),
}
RMS_EPS = ("rms_norm_eps",)
LAYER_EPS = ("layer_norm_eps", "norm_epsilon", "layer_norm_epsilon")


def folder_metadata(folder: Folder) -> dict[str, Any]:
    """Everything but the tensors: sizes, rotation, tokenizer, chat template.

    Raises:
        FolderError: something is missing, or has no GGUF form.
        OSError: a file cannot be read.
    """
    arch = folder.row.name
    keys = _sizes(folder) | _rope(folder) | _windows(folder)
    for key, name in folder.row.keys.items():
        if folder.config.get(name) is not None:
            keys[key] = folder.config[name]
    return {
        "general.architecture": arch,
        "general.type": "model",
        "general.name": folder.path.resolve().name,
        **{f"{arch}.{key}": value for key, value in keys.items()},
        **tokenizer_metadata(folder),
    }


def head_dim(folder: Folder) -> int:
    """The size of an attention head."""
    config = folder.config
    return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])


def rope_parameters(folder: Folder) -> dict[str, Any]:
    """Type, base and factors of the rotation of layers that see everything.

    Transformers 5 has them in one place, by kind of layer where there are several; before, they
    were spread over the configuration.
    """
    config = folder.config
    found = config.get("rope_parameters") or config.get("rope_scaling") or {}
    found = dict(found.get("full_attention", found))
    found.setdefault("rope_type", found.get("type", "default"))
    for name in ("rope_theta", "partial_rotary_factor", "original_max_position_embeddings"):
        if found.get(name) is None and config.get(name) is not None:
            found[name] = config[name]
    return found


def _first(config: Mapping[str, Any], names: tuple[str, ...]) -> Any:
    return next((config[name] for name in names if config.get(name) is not None), None)


def _sizes(folder: Folder) -> dict[str, Any]:
    config = folder.config
    keys = {key: _first(config, names) for key, names in REQUIRED.items()}
    for key, names in REQUIRED.items():
        if not isinstance(keys[key], int) or keys[key] < 1:
            raise folder.error(
                CONFIG, f"{names[0]} must be a positive whole number, it is {keys[key]!r}"
            )
    keys["attention.head_count_kv"] = (
        config.get("num_key_value_heads") or config["num_attention_heads"]
    )
    keys["attention.key_length"] = keys["attention.value_length"] = head_dim(folder)
    rms, layer = _first(config, RMS_EPS), _first(config, LAYER_EPS)
    if rms is None and layer is None:
        raise folder.error(CONFIG, f"needs one of {', '.join(RMS_EPS + LAYER_EPS)}")
    if rms is not None:
        keys["attention.layer_norm_rms_epsilon"] = float(rms)
    else:
        keys["attention.layer_norm_epsilon"] = float(layer)
    scalar = config.get("query_pre_attn_scalar")
    if scalar is not None and scalar != head_dim(folder):
        keys["attention.scale"] = 1 / math.sqrt(scalar)
    return keys


def _rope(folder: Folder) -> dict[str, Any]:
    config, rope = folder.config, rope_parameters(folder)
    keys: dict[str, Any] = {
        "rope.freq_base": float(rope.get("rope_theta", 10000.0)),
        "rope.dimension_count": int(head_dim(folder) * (rope.get("partial_rotary_factor") or 1.0)),
    }
    local = (config.get("rope_parameters") or {}).get("sliding_attention", {})
    base = local.get("rope_theta", config.get("rope_local_base_freq"))
    if base is not None and folder.row.name == "gemma3":
        keys["rope.freq_base_swa"] = float(base)
    kind = rope["rope_type"]
    if kind not in SCALINGS:
        raise folder.error(
            CONFIG, f"rope type {kind!r} has no GGUF form, only {', '.join(SCALINGS)} have"
        )
    return keys | SCALINGS[kind](folder, rope)


def _nothing(folder: Folder, rope: Mapping[str, Any]) -> dict[str, Any]:
    return {}


def _linear(folder: Folder, rope: Mapping[str, Any]) -> dict[str, Any]:
    return {"rope.scaling.type": "linear", "rope.scaling.factor": float(rope["factor"])}


def _yarn(folder: Folder, rope: Mapping[str, Any]) -> dict[str, Any]:
    factor = float(rope["factor"])
    keys: dict[str, Any] = {
        "rope.scaling.type": "yarn",
        "rope.scaling.factor": factor,
        "rope.scaling.original_context_length": _original_context(folder, rope),
    }
    if rope.get("truncate") is False:
        raise folder.error(CONFIG, "yarn without truncation has no GGUF form")
    attention = rope.get("attention_factor")
    if attention is None and rope.get("mscale") and rope.get("mscale_all_dim"):
        attention = _mscale(factor, rope["mscale"]) / _mscale(factor, rope["mscale_all_dim"])
    if attention is not None:
        keys["rope.scaling.yarn_attn_factor"] = float(attention)
    for name in ("beta_fast", "beta_slow"):
        if rope.get(name) is not None:
            keys[f"rope.scaling.yarn_{name}"] = float(rope[name])
    return keys


def _mscale(factor: float, mscale: float) -> float:
    return 0.1 * mscale * math.log(factor) + 1 if factor > 1 else 1.0


def _longrope(folder: Folder, rope: Mapping[str, Any]) -> dict[str, Any]:
    """The factors themselves are tensors."""
    original = _original_context(folder, rope)
    factor = folder.config["max_position_embeddings"] / original
    attention = rope.get("attention_factor")
    if attention is None:
        attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return {
        "rope.scaling.original_context_length": original,
        "rope.scaling.attn_factor": float(attention),
    }


def _original_context(folder: Folder, rope: Mapping[str, Any]) -> int:
    original = rope.get("original_max_position_embeddings")
    return int(original or folder.config["max_position_embeddings"])


# llama3's factors are a tensor, and nothing else.
SCALINGS = {
    "default": _nothing,
    "llama3": _nothing,
    "linear": _linear,
    "yarn": _yarn,
    "longrope": _longrope,
    "su": _longrope,
}


def _windows(folder: Folder) -> dict[str, Any]:
    """Which layers have a window, where it is not the architecture's usual pattern."""
    every, types = folder.row.global_every, folder.config.get("layer_types")
    if every is None or not types:
        return {}
    slides = [kind == "sliding_attention" for kind in types]
    usual = [bool(every and (i + 1) % every) for i in range(len(slides))]
    if every and slides == usual:
        return {}
    return {"attention.sliding_window_pattern": slides}
