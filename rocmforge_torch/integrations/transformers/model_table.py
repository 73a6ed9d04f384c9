"""How each architecture of `models/architectures.py` is called in transformers: one row each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

Convert = Callable[[float], Any]


@dataclass(frozen=True)
class HuggingFaceModel:
    """A class of transformers and the names it has for what a GGUF file says.

    Attributes:
        name: of the classes: NAMEConfig, NAMEForCausalLM.
        config: the configuration's class, where it is not NAMEConfig.
        eps: the option that holds the norms' epsilon.
        norm_offset: what the file's norm weights have more than transformers'.
        numbers: field of `DecoderConfig` -> option, and how the number is written there. A field
            that is not here must have the value that leaves the computation alone.
        present: option -> the tensor whose presence makes it true; a leading "!" turns it round.
        partial_rotary: only a part of each head may be rotated.
        layer_types: layers with and without a window are told apart by name. (Otherwise a window
            is for all layers.)
        local_rope: those two kinds have rotations of their own.
        windows: layers may have a window.
        windowed: the model to use instead where layers have one.
    """

    name: str
    config: str = ""
    eps: str = "rms_norm_eps"
    norm_offset: float = 0.0
    numbers: Mapping[str, tuple[str, Convert]] = field(default_factory=dict)
    present: Mapping[str, str] = field(default_factory=dict)
    partial_rotary: bool = False
    layer_types: bool = False
    local_rope: bool = False
    windows: bool = False
    windowed: HuggingFaceModel | None = None


def _cap(value: float) -> float | None:
    return value or None


def _inverse_square(scale: float) -> int:
    return round(scale**-2)


ATTENTION_BIAS = {"attention_bias": "blk.0.attn_q.bias"}
BIASES = {**ATTENTION_BIAS, "mlp_bias": "blk.0.ffn_up.bias"}
GEMMA: dict[str, tuple[str, Convert]] = {
    "attention_scale": ("query_pre_attn_scalar", _inverse_square),
    "attention_softcap": ("attn_logit_softcapping", _cap),
    "final_softcap": ("final_logit_softcapping", _cap),
}
OLMO3 = HuggingFaceModel(
    "Olmo3", present=ATTENTION_BIAS, windows=True, layer_types=True, local_rope=True
)

MODELS: Mapping[str, HuggingFaceModel] = MappingProxyType(
    {
        "llama": HuggingFaceModel("Llama", present=BIASES),
        "qwen2": HuggingFaceModel("Qwen2"),
        "qwen3": HuggingFaceModel("Qwen3", present=ATTENTION_BIAS),
        "gemma2": HuggingFaceModel(
            "Gemma2",
            norm_offset=1.0,
            numbers=GEMMA,
            present=ATTENTION_BIAS,
            windows=True,
            layer_types=True,
        ),
        "gemma3": HuggingFaceModel(
            "Gemma3",
            "Gemma3TextConfig",
            norm_offset=1.0,
            numbers=GEMMA,
            present=ATTENTION_BIAS,
            windows=True,
            layer_types=True,
            local_rope=True,
        ),
        "phi3": HuggingFaceModel("Phi3", partial_rotary=True, windows=True),
        "granite": HuggingFaceModel(
            "Granite",
            numbers={
                "embedding_scale": ("embedding_multiplier", float),
                "residual_scale": ("residual_multiplier", float),
                "attention_scale": ("attention_multiplier", float),
                "logit_scale": ("logits_scaling", float),
            },
            present=BIASES,
        ),
        "olmo2": HuggingFaceModel("Olmo2", present=ATTENTION_BIAS, windowed=OLMO3),
        "stablelm": HuggingFaceModel(
            "StableLm",
            eps="layer_norm_eps",
            present={
                "use_qkv_bias": "blk.0.attn_q.bias",
                "qk_layernorm": "blk.0.attn_q_norm.weight",
                "use_parallel_residual": "!blk.0.ffn_norm.weight",
            },
            partial_rotary=True,
        ),
        "starcoder2": HuggingFaceModel(
            "Starcoder2", eps="norm_epsilon", present={"use_bias": "blk.0.attn_q.bias"}
        ),
    }
)
