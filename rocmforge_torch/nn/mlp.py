"""Feed-forward networks of decoder layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import ops  # noqa: F401  (registers the operators)
from .linear import QuantLinear


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": functional.silu, "gelu": _gelu}
GATED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": torch.ops.rocmforge.silu_mul.default,
    "gelu": torch.ops.rocmforge.gelu_mul.default,
}


class GatedMLP(nn.Module):
    """down(act(gate(x)) * up(x)), with gate and up apart or in one matrix (gate rows first)."""

    def __init__(self, gate_up: list[QuantLinear], down: QuantLinear, activation: str) -> None:
        super().__init__()
        self.gate_up = nn.ModuleList(gate_up)
        self.down = down
        self.act_mul = GATED[activation]

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> [..., C]."""
        parts = [projection(x) for projection in self.gate_up]
        gate, up = parts if len(parts) == 2 else parts[0].chunk(2, -1)
        return self.down(self.act_mul(gate, up))


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
