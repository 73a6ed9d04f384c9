"""The architectures: `model_type` of config.json to what its GGUF form is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any


@dataclass(frozen=True)
class Architecture:
    """How a model's GGUF file differs from its folder.

    Attributes:
        name: `general.architecture`.
        to_neighbours: heads of query and key are stored for rotation of neighbouring numbers.
        adds_one: norms multiply by 1 + weight, which GGUF files hold added up.
        keys: further GGUF keys and where config.json has them.
        global_every: every n-th layer sees the whole context unless the file says otherwise; 0: the
            file always has to say.
        defaults: what config.json may leave out.
    """

    name: str
    to_neighbours: bool = False
    adds_one: bool = False
    keys: Mapping[str, str] = field(default_factory=dict)
    global_every: int | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)


WINDOW = {"attention.sliding_window": "sliding_window"}
SOFTCAPS = {
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
TIED = {"tie_word_embeddings": True}

ARCHITECTURES: Mapping[str, Architecture] = MappingProxyType(
    {
        "llama": Architecture("llama", to_neighbours=True),
        "mistral": Architecture("llama", to_neighbours=True),
        "qwen2": Architecture("qwen2"),
        "qwen3": Architecture("qwen3"),
        "gemma2": Architecture(
            "gemma2", adds_one=True, keys=WINDOW | SOFTCAPS, global_every=2, defaults=TIED
        ),
        "gemma3_text": Architecture(
            "gemma3",
            adds_one=True,
            keys=WINDOW | SOFTCAPS,
            global_every=6,
            # Published configurations leave out what Gemma3TextConfig has by default.
            defaults=TIED
            | {
                "num_attention_heads": 8,
                "num_key_value_heads": 4,
                "head_dim": 256,
                "rms_norm_eps": 1e-6,
                "max_position_embeddings": 131072,
                "rope_theta": 1e6,
                "rope_local_base_freq": 1e4,
                "query_pre_attn_scalar": 256,
                "vocab_size": 262208,
            },
        ),
        "phi3": Architecture("phi3", keys=WINDOW),
        "granite": Architecture(
            "granite",
            to_neighbours=True,
            keys={
                "attention.scale": "attention_multiplier",
                "embedding_scale": "embedding_multiplier",
                "residual_scale": "residual_multiplier",
                "logit_scale": "logits_scaling",
            },
        ),
        "olmo2": Architecture("olmo2"),
        "olmo3": Architecture("olmo2", keys=WINDOW, global_every=0),
        "stablelm": Architecture(
            "stablelm", keys={"use_parallel_residual": "use_parallel_residual"}
        ),
        "starcoder2": Architecture("starcoder2", defaults=TIED),
    }
)
