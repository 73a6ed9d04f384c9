"""Tiny random models of every architecture: transformers' own module, and a GGUF file of it.

The file is written as llama.cpp's converter writes it: gguf-py names the tensors and keys, and what
the converter does to the numbers (Gemma's norms, Llama's head order, StableLM's stacked norms) is
done here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import transformers
from torch import nn

VOCAB = 96
HIDDEN = 64
HEADS = 4
KV_HEADS = 2
LAYERS = 3
CONTEXT = 128

COMMON: dict[str, Any] = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 80,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "max_position_embeddings": CONTEXT,
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
    "pad_token_id": None,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 32,
}
LONG_FACTORS = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "partial_rotary_factor": 0.75,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5],
    "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 16.0],
    "original_max_position_embeddings": 32,
}


@dataclass(frozen=True)
class Tiny:
    """One model: the name of transformers' class, what its configuration adds to COMMON, and the
    keys that the GGUF file adds to the common ones."""

    architecture: str
    model: str
    options: dict[str, Any] = field(default_factory=dict)
    keys: dict[str, int | float | str] = field(default_factory=dict)


def _default_rope(theta: float = 10000.0, **more: Any) -> dict[str, Any]:
    return dict(rope_type="default", rope_theta=theta, **more)


GEMMA3_OPTIONS = {
    "head_dim": 32, "num_hidden_layers": 7, "sliding_window": 8, "query_pre_attn_scalar": 32,
    "tie_word_embeddings": True,
}  # fmt: skip
OLMO3_LAYERS = {"num_hidden_layers": 5, "sliding_window": 8}

TINY: dict[str, Tiny] = {
    "llama": Tiny("llama", "Llama"),
    "llama-biased": Tiny("llama", "Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied-wide": Tiny("llama", "Llama", {"tie_word_embeddings": True, "head_dim": 24}),
    "llama3": Tiny("llama", "Llama", {"rope_parameters": LLAMA3}),
    "llama-linear": Tiny(
        "llama",
        "Llama",
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}},
        {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0},
    ),
    "mistral": Tiny("llama", "Mistral", {"sliding_window": None}),
    "qwen2": Tiny("qwen2", "Qwen2"),
    "qwen2-yarn": Tiny(
        "qwen2",
        "Qwen2",
        {"rope_parameters": YARN},
        {
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
        },
    ),
    "qwen3": Tiny("qwen3", "Qwen3", {"head_dim": 32}),
    "gemma2": Tiny(
        "gemma2",
        "Gemma2",
        {
            "head_dim": 32,
            "sliding_window": 8,
            "query_pre_attn_scalar": 32,
            "tie_word_embeddings": True,
        },
        {"attention.sliding_window": 8, "attn_logit_softcapping": 50.0},
    ),
    "gemma3": Tiny("gemma3", "Gemma3", GEMMA3_OPTIONS, {"attention.sliding_window": 8}),
    "gemma3-linear": Tiny(
        "gemma3",
        "Gemma3",
        dict(
            GEMMA3_OPTIONS,
            rope_parameters={
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": _default_rope(5000.0),
            },
        ),
        {
            "attention.sliding_window": 8,
            "rope.freq_base_swa": 5000.0,
            "rope.scaling.type": "linear",
            "rope.scaling.factor": 8.0,
        },
    ),
    "phi3": Tiny("phi3", "Phi3", {"sliding_window": 8}, {"attention.sliding_window": 8}),
    "phi3-longrope": Tiny(
        "phi3",
        "Phi3",
        {"rope_parameters": LONG_FACTORS, "original_max_position_embeddings": 32},
        {
            "rope.dimension_count": 12,
            "rope.scaling.original_context_length": 32,
            "rope.scaling.attn_factor": math.sqrt(1 + math.log(CONTEXT / 32) / math.log(32)),
        },
    ),
    "granite": Tiny(
        "granite",
        "Granite",
        {
            "embedding_multiplier": 3.0,
            "logits_scaling": 2.0,
            "residual_multiplier": 0.3,
            "attention_multiplier": 0.2,
        },
        {
            "embedding_scale": 3.0,
            "logit_scale": 2.0,
            "residual_scale": 0.3,
            "attention.scale": 0.2,
        },
    ),
    "olmo2": Tiny("olmo2", "Olmo2"),
    "olmo3": Tiny(
        "olmo2",
        "Olmo3",
        dict(
            OLMO3_LAYERS,
            rope_parameters={"full_attention": YARN, "sliding_attention": _default_rope()},
        ),
        {
            "attention.sliding_window": 8,
            "rope.scaling.type": "yarn",
            "rope.scaling.factor": 4.0,
            "rope.scaling.original_context_length": 32,
        },
    ),
    "stablelm": Tiny(
        "stablelm",
        "StableLm",
        {"use_qkv_bias": True, "rope_parameters": _default_rope(partial_rotary_factor=0.25)},
        {"rope.dimension_count": 4},
    ),
    "stablelm-12b": Tiny(
        "stablelm",
        "StableLm",
        {
            "qk_layernorm": True,
            "use_parallel_residual": True,
            "rope_parameters": _default_rope(partial_rotary_factor=0.25),
        },
        {"rope.dimension_count": 4},
    ),
    "starcoder2": Tiny("starcoder2", "Starcoder2", {"tie_word_embeddings": True}),
}


def build(tiny: Tiny, seed: int = 0) -> nn.Module:
    """transformers' model with random weights that make every part of it matter."""
    name = "Gemma3TextConfig" if tiny.model == "Gemma3" else f"{tiny.model}Config"
    config = getattr(transformers, name)(**(COMMON | tiny.options))
    config._attn_implementation = "eager"
    model = getattr(transformers, f"{tiny.model}ForCausalLM")(config).eval()
    generator = torch.Generator().manual_seed(seed)
    for key, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 2 and "layernorm" not in key:
            parameter.data = noise * (1.5 / math.sqrt(parameter.shape[1]))
        elif key.endswith("bias") or tiny.model.startswith("Gemma"):
            parameter.data = 0.3 * noise
        else:
            parameter.data = 1 + 0.3 * noise
    return model


def write_gguf(
    tiny: Tiny,
    model: Any,
    path: Path,
    change: Callable[[dict[str, np.ndarray]], None] | None = None,
    keys: dict[str, Any] | None = None,
    qtype: gguf.GGMLQuantizationType | None = None,
) -> Path:
    """Write `model` in float32, or its matrices in `qtype` where whole blocks make their rows;
    `change` may alter the tensors, `keys` add to the metadata (a key whose value is None is left
    out)."""
    arch, config = tiny.architecture, model.config
    head_dim = getattr(config, "head_dim", None) or HIDDEN // HEADS
    eps = next(
        getattr(config, name)
        for name in ("rms_norm_eps", "layer_norm_eps", "norm_epsilon")
        if hasattr(config, name)
    )
    eps_key = "layer_norm_rms_epsilon" if hasattr(config, "rms_norm_eps") else "layer_norm_epsilon"
    rope = config.rope_parameters
    all_keys: dict[str, Any] = {
        "context_length": CONTEXT,
        "embedding_length": HIDDEN,
        "feed_forward_length": config.intermediate_size,
        "block_count": config.num_hidden_layers,
        "attention.head_count": HEADS,
        "attention.head_count_kv": KV_HEADS,
        "attention.key_length": head_dim,
        "attention.value_length": head_dim,
        f"attention.{eps_key}": eps,
        "rope.freq_base": rope.get("full_attention", rope)["rope_theta"],
    }
    all_keys |= tiny.keys | (keys or {})
    tensors = _tensors(tiny, model)
    if change is not None:
        change(tensors)

    writer = gguf.GGUFWriter(path, arch)
    for key, value in all_keys.items():
        name = f"{arch}.{key}"
        if isinstance(value, int):
            writer.add_uint32(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        elif isinstance(value, str):
            writer.add_string(name, value)
        elif value is not None:
            writer.add_array(name, value)
    for name, tensor in tensors.items():
        fits = qtype and tensor.ndim == 2 and tensor.shape[1] % gguf.GGML_QUANT_SIZES[qtype][0] == 0
        if qtype and fits and "norm" not in name:
            writer.add_tensor(name, gguf.quants.quantize(tensor, qtype), raw_dtype=qtype)
        else:
            writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(tiny: Tiny, model: Any) -> dict[str, np.ndarray]:
    arch = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == tiny.architecture)
    names = gguf.get_tensor_name_map(arch, model.config.num_hidden_layers)
    state = {key: value.numpy() for key, value in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        del state["lm_head.weight"]
    tensors: dict[str, np.ndarray] = {}
    for key, value in _stack_heads(state).items():
        if tiny.model.startswith("Gemma") and key.endswith("norm.weight"):
            value = value + 1
        if tiny.model in ("Llama", "Mistral", "Granite"):
            if ".q_proj." in key:
                value = _to_neighbours(value, HEADS)
            elif ".k_proj." in key:
                value = _to_neighbours(value, KV_HEADS)
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert name is not None, key
        tensors[name] = value
    rope = model.config.rope_parameters
    if rope.get("rope_type") == "llama3":
        tensors["rope_freqs.weight"] = _llama3_factors(rope, HIDDEN // HEADS)
    for kind in ("long", "short"):
        if f"{kind}_factor" in rope:
            factors = np.array(rope[f"{kind}_factor"], np.float32)
            tensors[f"rope_factors_{kind}.weight"] = factors
    return tensors


def _stack_heads(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """StableLM's norm of each head becomes one tensor [heads, head_dim]."""
    stacked: dict[str, list[np.ndarray]] = {}
    rest: dict[str, np.ndarray] = {}
    for key, value in state.items():
        before, norms, _ = key.partition(".norms.")
        if norms:
            stacked.setdefault(f"{before}.weight", []).append(value)
        else:
            rest[key] = value
    return rest | {key: np.stack(values) for key, values in stacked.items()}


def _to_neighbours(weight: np.ndarray, heads: int) -> np.ndarray:
    """Reorder each head's rows from halves (i, i + D/2) to pairs (2i, 2i + 1)."""
    halves = weight.reshape(heads, 2, -1, *weight.shape[1:])
    return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(weight.shape)


def _llama3_factors(rope: dict[str, Any], dim: int) -> np.ndarray:
    """What each frequency is divided by, as Llama 3.1 defines it."""
    context = rope["original_max_position_embeddings"]
    wavelength = 2 * np.pi * rope["rope_theta"] ** (np.arange(0, dim, 2) / dim)
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    smooth = np.clip((context / wavelength - low) / (high - low), 0, 1)
    return (1 / ((1 - smooth) / rope["factor"] + smooth)).astype(np.float32)
