"""`QuantGatedLinear`: the front half of a gated feed-forward layer as one op."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .linear import QuantLinear

if TYPE_CHECKING:
    from .normed_input import Normed

quant_matmul_gated = torch.ops.rocmforge.quant_matmul_gated.default


class QuantGatedLinear(QuantLinear):
    """y = act(x G^T + b_g) * (x U^T + b_u), with the rows of G, then those of U, in GGUF blocks.

    Attributes:
        activation: "silu", or "gelu" in its tanh form.
    """

    def __init__(self, linear: QuantLinear, activation: str) -> None:
        """Take over the weight and bias of a layer that computes both projections."""
        super().__init__(linear.qweight, linear.qtype, linear.bias, linear.layout)
        self.activation = activation

    def forward(self, x: Tensor | Normed) -> Tensor:
        """x [..., in_features] -> [..., out_features / 2], in x's dtype."""
        if not isinstance(x, Tensor):
            return x.multiply(self, self.activation)
        buffers = self._buffers  # as in QuantLinear
        return quant_matmul_gated(
            x, buffers["qweight"], self.qtype, self.activation, buffers["bias"], self.layout
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, activation={self.activation}"
