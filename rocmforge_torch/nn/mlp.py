"""Feed-forward networks of decoder layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .linear import QuantLinear


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": functional.silu, "gelu": _gelu}


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)), with gate and up apart or in one matrix (gate rows first)."""

    def __init__(self, gate_up: list[QuantLinear], down: QuantLinear, activation: str) -> None:
        super().__init__()
        self.gate_up = nn.ModuleList(gate_up)
        self.down = down
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., C]."""
        parts = [projection(x) for projection in self.gate_up]
        gate, up = parts if len(parts) == 2 else parts[0].chunk(2, -1)
        if self.activation == "silu":
            hidden = torch.ops.rocmforge.silu_mul.default(gate, up)
        else:
            hidden = torch.ops.rocmforge.gelu_mul.default(gate, up)
        return self.down(hidden)


class MLP(nn.Module):
    """down(act(up(x)))."""

    def __init__(self, up: QuantLinear, down: QuantLinear, activation: str) -> None:
        super().__init__()
        self.up = up
        self.down = down
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., C]."""
        return self.down(self.activation(self.up(x)))
