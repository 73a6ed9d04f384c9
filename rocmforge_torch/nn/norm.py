"""The norms of decoders.

Each can add the residual stream on the way, and norm what is added before that:
`norm.add(x, residual, x_norm)`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import ops  # noqa: F401  (registers the operators)

rms_norm = torch.ops.rocmforge.rms_norm.default
add_rms_norm = torch.ops.rocmforge.add_rms_norm.default


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * weight over the last dimension.

    GGUF files of Gemma already hold 1 + weight, so no model needs an offset.
    """

    def __init__(self, weight: Tensor, eps: float) -> None:
        """weight [C]."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., C]."""
        # The dictionary is twice as fast as the attribute, and this is the hot path.
        return rms_norm(x, self._parameters["weight"], self.eps)

    def add(self, x: Tensor, residual: Tensor, x_norm: Norm | None = None) -> tuple[Tensor, Tensor]:
        """(norm(total), total), total = x_norm(x) + residual; all [..., C]."""
        weight, x_weight = self._parameters["weight"], None
        if isinstance(x_norm, RMSNorm) and self.eps == x_norm.eps:
            x_weight = x_norm._parameters["weight"]  # the same op does it
        elif x_norm is not None:
            x = x_norm(x)
        return add_rms_norm(x, residual, weight, self.eps, x_weight)

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, eps={self.eps}"


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(var + eps) * weight + bias over the last dimension.

    A weight [H, C] gives every head of x [..., H, C] its own (StableLM 2's query and key norms).
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, eps: float) -> None:
        """weight [C] or [H, C]; bias of the same shape, or None."""
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias, requires_grad=False)
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., C]."""
        y = functional.layer_norm(x, x.shape[-1:], eps=self.eps) * self.weight.to(x.dtype)
        return y if self.bias is None else y + self.bias.to(x.dtype)

    def add(self, x: Tensor, residual: Tensor, x_norm: Norm | None = None) -> tuple[Tensor, Tensor]:
        """(norm(total), total), total = x_norm(x) + residual; all [..., C]."""
        total = (x if x_norm is None else x_norm(x)) + residual
        return self(total), total

    def extra_repr(self) -> str:
        return f"{list(self.weight.shape)}, eps={self.eps}"


class NoNorm(nn.Module):
    """Stands where a model has no norm (OLMo 2 norms only what a block puts out)."""

    def forward(self, x: Tensor) -> Tensor:
        return x

    def add(self, x: Tensor, residual: Tensor, x_norm: Norm | None = None) -> tuple[Tensor, Tensor]:
        total = (x if x_norm is None else x_norm(x)) + residual
        return total, total


Norm = RMSNorm | LayerNorm | NoNorm
