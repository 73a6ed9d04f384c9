"""Root-mean-square normalisation (Zhang and Sennrich, 2019)."""

from __future__ import annotations

import torch
from torch import Tensor


def rms_norm(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    y = x.float()
    y = y * torch.rsqrt(y.square().mean(-1, keepdim=True) + eps)
    if weight is not None:
        y = y * weight.float()
    return y.to(x.dtype, memory_format=torch.contiguous_format)


def add_rms_norm(
    x: Tensor,
    residual: Tensor,
    weight: Tensor | None,
    eps: float,
    x_weight: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    if x_weight is not None:
        x = rms_norm(x, x_weight, eps)  # rounded to x's dtype before it is added
    total = (x + residual).contiguous()  # in x's dtype: what the next layer's residual holds
    return rms_norm(total, weight, eps), total
