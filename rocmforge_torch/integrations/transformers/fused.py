"""Projections of one input as one layer, inside of transformers' own modules.

transformers calls the projections of query, key and value, and those of gate and up, by name and
one after the other. They stay modules of their own that give what they gave; behind them is one
matrix. A compiled graph has the same product three times then, which becomes one.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...nn import QuantLinear
from ...nn.projections import Projections
from ...tensor import GGUFTensor
from ...tuning.in_force import most_fused_rows

GROUPS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
quant_matmul = torch.ops.rocmforge.quant_matmul.default
unpack_weight = torch.ops.rocmforge.unpack_weight.default


class FusedProjection(nn.Module):
    """One of the projections that a layer computes together.

    Attributes:
        layer: computes all of them; the same module in each.
        sizes: the output features of each, in the order of the layer's rows.
        index: which of them this is.
    """

    def __init__(self, layer: QuantLinear, sizes: list[int], index: int) -> None:
        super().__init__()
        self.layer = layer
        self.sizes = sizes
        self.index = index

    def forward(self, x: Tensor) -> Tensor:
        """x [..., in_features] -> [..., sizes[index]]."""
        layer, packed = self.layer, self.layer.layout == 1
        if torch.compiler.is_compiling() or (packed and self._is_small(x)):
            whole: Tensor = layer(x)
            return whole.split(self.sizes, -1)[self.index]
        blocks = unpack_weight(layer.qweight, layer.qtype) if packed else layer.qweight
        bias = None if layer.bias is None else layer.bias.split(self.sizes)[self.index]
        return quant_matmul(x, blocks.split(self.sizes)[self.index], layer.qtype, bias)

    def _is_small(self, x: Tensor) -> bool:
        """Whether all of the packed matrix is multiplied to get a part of the result: its rows are
        not apart, and as long as our own kernels take x, unpacking them takes longer."""
        layer = self.layer
        return x.numel() <= most_fused_rows(x.device, layer.qtype) * layer.in_features

    def extra_repr(self) -> str:
        return f"rows {sum(self.sizes[: self.index])} to {sum(self.sizes[: self.index + 1])}"


def fuse_(model: nn.Module) -> None:
    """Replace neighbouring projections of one input, where their types agree."""
    for module in list(model.modules()):
        for names in GROUPS:
            if all(isinstance(module._modules.get(name), nn.Linear) for name in names):
                _fuse(module, names)


def _fuse(module: nn.Module, names: tuple[str, ...]) -> None:
    linears: list[Any] = [module.get_submodule(name) for name in names]
    if not all(isinstance(linear.weight, GGUFTensor) for linear in linears):
        return
    biases = [None if linear.bias is None else linear.bias.detach() for linear in linears]
    parts = zip(linears, biases, strict=True)
    layers = Projections([QuantLinear.from_weight(x.weight, bias) for x, bias in parts]).fuse_()
    left, fused = iter(names), list[Any](layers)
    for layer, sizes in zip(fused, layers.rows, strict=True):
        for index, _ in enumerate(sizes):
            name = next(left)
            if len(sizes) > 1:
                setattr(module, name, FusedProjection(layer, sizes, index))
