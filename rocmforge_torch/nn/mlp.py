"""Feed-forward networks of decoder layers."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from .. import ops  # noqa: F401  (registers the operators)
from .gated import QuantGatedLinear
from .linear import QuantLinear
from .normed_input import Block, Normed
from .projections import Projections


def _gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"silu": functional.silu, "gelu": _gelu}
GATED: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "silu": torch.ops.rocmforge.silu_mul.default,
    "gelu": torch.ops.rocmforge.gelu_mul.default,
}


class GatedMLP(Block):
    """down(act(gate(x)) * up(x)), with gate and up apart or in one matrix (gate rows first)."""

    def __init__(self, gate_up: list[QuantLinear], down: QuantLinear, activation: str) -> None:
        super().__init__()
        self.gate_up = Projections(gate_up)
        self.down = down
        self.activation = activation
        self.act_mul = GATED[activation]

    def fuse_(self) -> GatedMLP:
        """Make gate and up one layer with the activation, if types agree; returns itself."""
        layers = self.gate_up.fuse_()
        if len(layers) == 1 and type(layers[0]) is QuantLinear:
            layers[0] = QuantGatedLinear(layers[0], self.activation)
        return self

    def input_layer(self) -> nn.Module | None:
        """The one that reads x, if there is only one."""
        return self.gate_up[0] if len(self.gate_up) == 1 else None

    def forward(self, x: Tensor | Normed) -> Tensor:
        """x [..., C] -> [..., C]."""
        parts = [projection(x) for projection in self.gate_up]
        if isinstance(self.gate_up[0], QuantGatedLinear):
            return self.down(parts[0])
        gate, up = parts if len(parts) == 2 else parts[0].chunk(2, -1)
        return self.down(self.act_mul(gate, up))

    def extra_repr(self) -> str:
        return f"activation={self.activation}"


class MLP(Block):
    """down(act(up(x)))."""

    def __init__(self, up: QuantLinear, down: QuantLinear, activation: str) -> None:
        super().__init__()
        self.up = up
        self.down = down
        self.activation = ACTIVATIONS[activation]

    def input_layer(self) -> nn.Module | None:
        """The one that reads x."""
        return self.up

    def forward(self, x: Tensor | Normed) -> Tensor:
        """x [..., C] -> [..., C]."""
        return self.down(self.activation(self.up(x)))
