"""Modules whose weights stay in GGUF blocks, and what a decoder needs beside them."""

from __future__ import annotations

from .attention import Attention, AttentionCore
from .embedding import QuantEmbedding
from .gated import QuantGatedLinear
from .kv_cache import KVCache, Step, uncached_step
from .linear import QuantLinear
from .mask import attention_mask
from .mlp import MLP, GatedMLP
from .norm import LayerNorm, NoNorm, Norm, RMSNorm
from .normed_input import BlindHook, Normed, is_looked_at, normed_input, total_of
from .projections import Projections
from .quantize import quantize_
from .rope import RopeConfig, RotaryEmbedding
from .sampling import SamplingRows, sample

__all__ = [
    "MLP",
    "Attention",
    "AttentionCore",
    "BlindHook",
    "GatedMLP",
    "KVCache",
    "LayerNorm",
    "NoNorm",
    "Norm",
    "Normed",
    "Projections",
    "QuantEmbedding",
    "QuantGatedLinear",
    "QuantLinear",
    "RMSNorm",
    "RopeConfig",
    "RotaryEmbedding",
    "SamplingRows",
    "Step",
    "attention_mask",
    "is_looked_at",
    "normed_input",
    "quantize_",
    "sample",
    "total_of",
    "uncached_step",
]
