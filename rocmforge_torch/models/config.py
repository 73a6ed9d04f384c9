"""`DecoderConfig`: the numbers of a model, from its GGUF metadata."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np

from ..gguf import GGUFError
from ..nn.rope import SCALINGS, RopeConfig, Scaling
from .architectures import ARCHITECTURES, Architecture
from .metadata import Keys

# What is made before the tensors' shapes can be compared grows with these.
MOST_LAYERS = 4096
MOST_HEAD_DIM = 65536
MOST_FACTOR = 1e6


@dataclass(frozen=True)
class DecoderConfig:
    """Everything a decoder is built from, beside its weights.

    Attributes:
        architecture: the name in the file; row: its row of the table.
        hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim: sizes.
        context_length: the longest context the model was made for.
        norm_eps: epsilon of every norm.
        rope, local_rope: rotations of layers that see everything, and of those with a window.
        windows: the window of every layer, 0 for none.
        attention_scale: what scores are multiplied by.
        attention_softcap, final_softcap: s becomes cap * tanh(s / cap), 0 for none.
        embedding_scale, residual_scale: multiply embeddings, and what each block adds.
        logit_scale: logits are divided by it.
    """

    architecture: str
    row: Architecture
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    context_length: int
    norm_eps: float
    rope: RopeConfig
    local_rope: RopeConfig
    windows: tuple[int, ...]
    attention_scale: float
    attention_softcap: float
    final_softcap: float
    embedding_scale: float
    residual_scale: float
    logit_scale: float

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any], source: str = "") -> DecoderConfig:
        """Read a configuration.

        Args:
            metadata: the keys of a GGUF file.
            source: the file's name, for messages.

        Raises:
            GGUFError: the architecture is not supported, or a key is missing or invalid.
        """
        name = metadata.get("general.architecture")
        if not isinstance(name, str) or name not in ARCHITECTURES:
            raise GGUFError(
                f"load_model supports no architecture {name!r}; it supports "
                f"{', '.join(ARCHITECTURES)}. load_gguf gives the file's tensors",
                source=source,
                subject="key 'general.architecture'",
            )
        row = ARCHITECTURES[name]
        keys = Keys(metadata, name, source)
        if keys.integer("expert_count", default=0, least=0):
            raise keys.error("expert_count", "mixtures of experts are not supported yet")
        hidden_size = keys.integer("embedding_length")
        num_layers = keys.integer("block_count", most=MOST_LAYERS)
        num_heads = keys.integer("attention.head_count", most=hidden_size)
        head_dim = keys.integer(
            "attention.key_length", hidden_size // num_heads, most=MOST_HEAD_DIM
        )
        rope = _rope(keys, row, head_dim)
        local = row.local_rope(rope) if row.local_rope else rope
        default_scale = 1 / math.sqrt(
            hidden_size // num_heads if num_layers == row.wide_query else head_dim
        )
        scale_of_embedding = math.sqrt(hidden_size) if row.scale_embedding else 1.0
        eps_key = "layer_norm_rms_epsilon" if row.norm == "rms" else "layer_norm_epsilon"
        config = cls(
            architecture=name,
            row=row,
            hidden_size=hidden_size,
            intermediate_size=keys.integer("feed_forward_length"),
            num_layers=num_layers,
            num_heads=num_heads,
            num_kv_heads=keys.integer("attention.head_count_kv", num_heads),
            head_dim=head_dim,
            context_length=keys.integer("context_length"),
            norm_eps=keys.number(f"attention.{eps_key}", positive=True),
            rope=rope,
            local_rope=replace(
                local, base=keys.number("rope.freq_base_swa", local.base, positive=True)
            ),
            windows=_windows(keys, row, num_layers),
            # llama.cpp reads a zero in the following as "not set".
            attention_scale=keys.number("attention.scale", 0.0) or default_scale,
            attention_softcap=keys.number("attn_logit_softcapping", row.attention_softcap),
            final_softcap=keys.number("final_logit_softcapping", row.final_softcap),
            embedding_scale=keys.number("embedding_scale", 0.0) or scale_of_embedding,
            residual_scale=keys.number("residual_scale", 0.0) or 1.0,
            logit_scale=keys.number("logit_scale", 0.0) or 1.0,
        )
        if config.num_heads % config.num_kv_heads:
            raise keys.error(
                "attention.head_count_kv",
                f"must divide the {config.num_heads} heads, it is {config.num_kv_heads}",
            )
        if keys.integer("attention.value_length", head_dim) != head_dim:
            raise keys.error("attention.value_length", f"must be the key length, {head_dim}")
        return config


def _rope(keys: Keys, row: Architecture, head_dim: int) -> RopeConfig:
    dim = keys.integer("rope.dimension_count", head_dim, least=2)
    if dim % 2 or dim > head_dim:
        raise keys.error(
            "rope.dimension_count",
            f"must be even and at most the {head_dim} dimensions of a head, it is {dim}",
        )
    # Files from before "rope.scaling" have only a factor, under another name; zero means none.
    factor = keys.number("rope.scaling.factor", keys.number("rope.scale_linear", 0.0)) or 1.0
    if not 0 < factor <= MOST_FACTOR:
        problem = f"must be positive and at most {MOST_FACTOR:.0f}, it is {factor}"
        raise keys.error("rope.scaling.factor", problem)
    base = keys.number("rope.freq_base", 10000.0)
    if base <= 1:
        raise keys.error("rope.freq_base", f"must be greater than 1, it is {base}")
    kind = keys.text("rope.scaling.type", "linear")
    if kind not in SCALINGS:
        raise keys.error("rope.scaling.type", f"must be one of {SCALINGS}, it is {kind!r}")
    attention_factor = None
    for name in ("rope.scaling.yarn_attn_factor", "rope.scaling.attn_factor"):
        if keys.value(name) is not None:
            attention_factor = (attention_factor or 1.0) * keys.number(name, positive=True)
    return RopeConfig(
        dim=dim,
        base=base,
        interleaved=row.rope_interleaved,
        scaling=cast(Scaling, kind),
        factor=factor,
        original_context=keys.integer(
            "rope.scaling.original_context_length", keys.integer("context_length")
        ),
        attention_factor=attention_factor,
        beta_fast=keys.number("rope.scaling.yarn_beta_fast", 32.0, positive=True),
        beta_slow=keys.number("rope.scaling.yarn_beta_slow", 1.0, positive=True),
    )


def _windows(keys: Keys, row: Architecture, num_layers: int) -> tuple[int, ...]:
    if row.global_every is None:
        return (0,) * num_layers
    window = keys.integer("attention.sliding_window", row.window, least=0)
    pattern = keys.value("attention.sliding_window_pattern")
    if isinstance(pattern, np.ndarray) and pattern.dtype == np.bool_:
        if pattern.shape != (num_layers,):
            raise keys.error(
                "attention.sliding_window_pattern",
                f"must have one value for each of {num_layers} layers, it has {pattern.size}",
            )
        return tuple(window if slides else 0 for slides in pattern.tolist())
    period = keys.integer("attention.sliding_window_pattern", row.global_every, least=0)
    return tuple(window if not period or (i + 1) % period else 0 for i in range(num_layers))
