"""Rotary position embedding (Su et al., 2021), in both orders of the pairs."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor


def rope(
    x: Tensor, positions: Tensor, inv_freq: Tensor, interleaved: bool = False, scale: float = 1.0
) -> Tensor:
    angle = (positions.float()[..., None] * inv_freq)[..., None, :]  # [..., T, 1, R/2]
    cos, sin = angle.cos() * scale, angle.sin() * scale
    rotated = 2 * inv_freq.shape[0]
    head, rest = x[..., :rotated].float(), x[..., rotated:]
    # The pairs are (i, i + R/2), or neighbours (2i, 2i + 1).
    split, join = (
        ("... (i two) -> two ... i", "two ... i -> ... (i two)")
        if interleaved
        else (
            "... (two i) -> two ... i",
            "two ... i -> ... (two i)",
        )
    )
    a, b = rearrange(head, split, two=2)
    head = rearrange([a * cos - b * sin, a * sin + b * cos], join)
    return torch.cat([head.to(x.dtype), rest], dim=-1)
