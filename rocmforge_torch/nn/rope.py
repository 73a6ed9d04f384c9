"""Rotary position embedding: how each scaling turns into frequencies and a factor.

The op rotates by position * inv_freq and multiplies by one scale. Everything that models do to
reach longer contexts is a change of these two, computed once:

    linear    positions shrink by `factor` (Chen et al. 2023, position interpolation).
    ntk       the base grows: the lowest frequency shrinks by `factor`, the highest stays.
    yarn      low frequencies shrink, high ones stay, a ramp between (Peng et al. 2023).
    llama3    a factor per frequency, which converters store as `rope_freqs.weight`.
    longrope  as llama3, with one set of factors up to the original context and one beyond it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .. import ops  # noqa: F401  (registers the operators)

rope = torch.ops.rocmforge.rope.default

Scaling = Literal["none", "linear", "ntk", "yarn", "longrope"]
SCALINGS = get_args(Scaling)


@dataclass(frozen=True)
class RopeConfig:
    """Parameters of a rotary embedding.

    Attributes:
        dim: how many dimensions of a head are rotated (even).
        base: theta; pair i turns by base^(-2i / dim) a position.
        interleaved: pairs are (2i, 2i + 1) instead of (i, i + dim / 2).
        scaling: one of `SCALINGS`.
        factor: how many times longer the context became.
        original_context: the context the model was trained with before scaling.
        attention_factor: what cos and sin are multiplied by; for yarn None means
            0.1 ln(factor) + 1, the value its paper recommends.
        beta_fast, beta_slow: yarn keeps frequencies of more than `beta_fast` turns in the original
            context and scales those of fewer than `beta_slow`.
    """

    dim: int
    base: float = 10000.0
    interleaved: bool = False
    scaling: Scaling = "none"
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0

    def unscaled(self, base: float) -> RopeConfig:
        """The same rotation with another base and no scaling (local layers of Gemma 3)."""
        return replace(self, base=base, scaling="none", factor=1.0, attention_factor=None)


def inverse_frequencies(config: RopeConfig, factors: Tensor | None = None) -> Tensor:
    """Radians a position of every pair, float32 [dim / 2].

    Args:
        config: the rotation.
        factors: [dim / 2], what every frequency is divided by (llama3, longrope).
    """
    base = config.base
    if config.scaling == "ntk" and config.dim > 2:
        base *= config.factor ** (config.dim / (config.dim - 2))
    device = None if factors is None else factors.device
    inv_freq = base ** -(torch.arange(0, config.dim, 2, dtype=torch.float64) / config.dim)
    inv_freq = inv_freq.to(device)
    if factors is not None:
        inv_freq = inv_freq / factors.double()
    if config.scaling == "linear":
        inv_freq = inv_freq / config.factor
    elif config.scaling == "yarn":
        ramp = _yarn_ramp(config).to(device)
        inv_freq = inv_freq * (1 - ramp) + inv_freq / config.factor * ramp
    return inv_freq.to(torch.float32)


def attention_scale(config: RopeConfig) -> float:
    """What cos and sin are multiplied by."""
    if config.attention_factor is not None:
        return config.attention_factor
    if config.scaling == "yarn" and config.factor > 1:
        return 0.1 * math.log(config.factor) + 1
    return 1.0


def _yarn_ramp(config: RopeConfig) -> Tensor:
    """How far every pair is scaled, from 0 (not at all) to 1 (by `factor`); float64 [dim / 2]."""

    def pair_that_turns(times: float) -> float:
        radians_per_position = times * 2 * math.pi / config.original_context
        return -config.dim * math.log(radians_per_position) / (2 * math.log(config.base))

    low = max(math.floor(pair_that_turns(config.beta_fast)), 0)
    high = min(math.ceil(pair_that_turns(config.beta_slow)), config.dim - 1)
    pair = torch.arange(config.dim // 2, dtype=torch.float64)
    return ((pair - low) / max(high - low, 0.001)).clamp(0, 1)


class RotaryEmbedding(nn.Module):
    """Rotates queries and keys by their positions.

    Attributes:
        inv_freq: float32 [dim / 2], a buffer.
        inv_freq_long: the same for contexts longer than the original one (longrope), or None.
    """

    inv_freq: Tensor
    inv_freq_long: Tensor | None

    def __init__(
        self,
        config: RopeConfig,
        factors: Tensor | None = None,
        long_factors: Tensor | None = None,
        device: torch.device | None = None,
    ) -> None:
        """factors, long_factors [dim / 2]: divisors of the frequencies (llama3, longrope)."""
        super().__init__()
        self.config = config
        self.interleaved = config.interleaved
        self.original_context = config.original_context
        self.scale = attention_scale(config)
        inv_freq = inverse_frequencies(config, factors).to(device)
        long = None
        if long_factors is not None:
            long = inverse_frequencies(config, long_factors).to(device)
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("inv_freq_long", long, persistent=False)

    def frequencies(self, context: int) -> Tensor:
        """The frequencies for a context of so many tokens, float32 [dim / 2]."""
        long = self.inv_freq_long
        return self.inv_freq if long is None or context <= self.original_context else long

    def forward(self, x: Tensor, positions: Tensor, context: int) -> Tensor:
        """x [B, T, H, D], positions int [T] or [B, T], context the most tokens there can be."""
        return rope(x, positions, self.frequencies(context), self.interleaved, self.scale)
