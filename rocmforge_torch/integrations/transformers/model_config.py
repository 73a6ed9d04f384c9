"""The transformers configuration of a GGUF file.

transformers has a conversion of its own, which leaves out scaled rotations, multipliers and two of
our architectures; this one starts from `DecoderConfig`, which our decoder is built from.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ...gguf import GGUFError, GGUFModelFile
from ...models import DecoderConfig
from ...nn.rope import RopeConfig, attention_scale
from ...tensor import GGUFTensor
from .model_table import MODELS, HuggingFaceModel

SPECIAL_TOKENS = {
    "bos_token_id": "tokenizer.ggml.bos_token_id",
    "eos_token_id": "tokenizer.ggml.eos_token_id",
    "pad_token_id": "tokenizer.ggml.padding_token_id",
}


def huggingface_model(config: DecoderConfig) -> HuggingFaceModel:
    """The row of transformers' model for a decoder."""
    row = MODELS[config.architecture]
    return row.windowed if row.windowed and any(config.windows) else row


def model_options(config: DecoderConfig, file: GGUFModelFile) -> dict[str, Any]:
    """The arguments of transformers' configuration class.

    Args:
        config: what our decoder would be built from.
        file: the file it was read from.

    Raises:
        GGUFError: the file says something that transformers' model cannot compute.
    """
    row, tensors = huggingface_model(config), file.tensors
    options: dict[str, Any] = {
        "vocab_size": tensors.info("token_embd.weight").shape[0],
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.context_length,
        "tie_word_embeddings": "output.weight" not in tensors,
        row.eps: config.norm_eps,
    }
    options |= {name: file.metadata.get(key) for name, key in SPECIAL_TOKENS.items()}
    options |= _numbers(config, row, str(file.path))
    for option, tensor in row.present.items():
        options[option] = (tensor.removeprefix("!") in tensors) != tensor.startswith("!")
    options |= _windows(config, row, str(file.path))
    options["rope_parameters"] = rope = _rope(config, config.rope, row, file)
    if row.local_rope:
        local = _rope(config, config.local_rope, row, file)
        options["rope_parameters"] = {"full_attention": rope, "sliding_attention": local}
    if "original_max_position_embeddings" in rope:
        options["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    return options


def _refusal(row: HuggingFaceModel, what: str, source: str) -> GGUFError:
    return GGUFError(
        f"asks for {what}, which transformers' {row.name}ForCausalLM does not compute; load_model "
        "does",
        source=source,
        subject="the model",
    )


def _numbers(config: DecoderConfig, row: HuggingFaceModel, source: str) -> dict[str, Any]:
    neutral = {
        "attention_scale": 1 / math.sqrt(config.head_dim),
        "attention_softcap": 0.0,
        "final_softcap": 0.0,
        "embedding_scale": math.sqrt(config.hidden_size) if config.row.scale_embedding else 1.0,
        "residual_scale": 1.0,
        "logit_scale": 1.0,
    }
    options = {}
    for name, default in neutral.items():
        value = getattr(config, name)
        if name in row.numbers:
            option, convert = row.numbers[name]
            options[option] = convert(value)
        elif not math.isclose(value, default, rel_tol=1e-6):
            raise _refusal(row, f"{name} {value}", source)
    return options


def _windows(config: DecoderConfig, row: HuggingFaceModel, source: str) -> dict[str, Any]:
    sizes = set(config.windows) - {0}
    mixed = len(set(config.windows)) > 1 and not row.layer_types
    if len(sizes) > 1 or mixed or (sizes and not row.windows):
        raise _refusal(row, f"windows of {sorted(set(config.windows))} tokens", source)
    options: dict[str, Any] = {}
    if row.windows:
        options["sliding_window"] = max(sizes, default=None)
    if row.layer_types:
        names = ("full_attention", "sliding_attention")
        options["layer_types"] = [names[window > 0] for window in config.windows]
    return options


def _rope(
    config: DecoderConfig, rope: RopeConfig, row: HuggingFaceModel, file: GGUFModelFile
) -> dict[str, Any]:
    """transformers' `rope_parameters`. The factors of `rope_freqs.weight` are not among them."""
    parameters: dict[str, Any] = {"rope_type": "default", "rope_theta": rope.base}
    if rope.dim != config.head_dim:
        if not row.partial_rotary:
            what = f"a rotation of {rope.dim} of {config.head_dim} dimensions"
            raise _refusal(row, what, str(file.path))
        parameters["partial_rotary_factor"] = rope.dim / config.head_dim
    if rope.scaling == "longrope" or "rope_factors_long.weight" in file.tensors:
        parameters |= {
            "rope_type": "longrope",
            "short_factor": _numbers_of(file.tensors, "rope_factors_short.weight", file),
            "long_factor": _numbers_of(file.tensors, "rope_factors_long.weight", file),
            "factor": config.context_length / rope.original_context,
            "original_max_position_embeddings": rope.original_context,
            "attention_factor": attention_scale(rope),
        }
    elif rope.scaling == "yarn" and rope.factor != 1:
        parameters |= {
            "rope_type": "yarn",
            "factor": rope.factor,
            "original_max_position_embeddings": rope.original_context,
            "attention_factor": attention_scale(rope),
            "beta_fast": rope.beta_fast,
            "beta_slow": rope.beta_slow,
        }
    elif rope.scaling == "linear" and rope.factor != 1:
        parameters |= {"rope_type": "linear", "factor": rope.factor}
    elif rope.scaling == "ntk" and rope.dim > 2:
        parameters["rope_theta"] *= rope.factor ** (rope.dim / (rope.dim - 2))
    return parameters


def _numbers_of(tensors: Mapping[str, Tensor], name: str, file: GGUFModelFile) -> list[float]:
    if name not in tensors:
        raise GGUFError(
            "is missing, the model needs it", source=str(file.path), subject=f"tensor {name!r}"
        )
    tensor = tensors[name]
    numbers: list[float] = (
        tensor.dequantize() if isinstance(tensor, GGUFTensor) else tensor
    ).tolist()
    return numbers
