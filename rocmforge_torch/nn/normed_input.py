"""A norm and the product that reads it, as one op where a kernel does both at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain

import torch
from torch import Tensor, nn

from ..tuning.in_force import most_fused_rows
from .gated import QuantGatedLinear
from .linear import QuantLinear
from .norm import Norm, RMSNorm

norm_quant_matmul = torch.ops.rocmforge.norm_quant_matmul.default
PACKED = 1  # the layout of weights that kernels are fast with


@dataclass
class Normed:
    """What a norm makes of x + residual, for the one layer that reads it and computes both.

    Attributes:
        norm: the norm.
        x, residual: [..., C]; None adds nothing.
        total: x + residual, as soon as the layer has been called.
    """

    norm: RMSNorm
    x: Tensor
    residual: Tensor | None
    total: Tensor | None = None

    @property
    def shape(self) -> torch.Size:
        return self.x.shape

    def multiply(self, layer: QuantLinear, act: str) -> Tensor:
        """The product with a layer's weight, gated by `act` unless that is "none"."""
        buffers, weight = layer._buffers, self.norm._parameters["weight"]
        product, self.total = norm_quant_matmul(
            self.x, weight, self.norm.eps, buffers["qweight"], layer.qtype, act, buffers["bias"],
            layer.layout, self.residual,
        )  # fmt: skip
        return product


class BlindHook:
    """A hook on modules that does not look at what goes in and out."""

    def __init__(self, call: Callable[[nn.Module], None]) -> None:
        self._call = call

    def __call__(self, module: nn.Module, *_: object) -> None:
        self._call(module)


class Block(nn.Module):
    """A part of a decoder layer that reads what a norm makes, as a tensor or `Normed`."""

    def input_layer(self) -> nn.Module | None:
        """The layer that reads what goes into the block, if there is only one."""
        raise NotImplementedError


def normed_input(
    norm: Norm, x: Tensor, residual: Tensor | None, x_norm: Norm | None, block: nn.Module | None
) -> tuple[Tensor | Normed, Tensor | None]:
    """norm(total), and total = x_norm(x) + residual, or x without a residual; all [..., C].

    The total is None where it is the `Normed`'s.

    Args:
        block: the one that reads the first, None if there are several.
    """
    if isinstance(norm, RMSNorm) and x_norm is None and _is_one_op(norm, x, block):
        return Normed(norm, x, residual), None
    if residual is None:
        return norm(x), x
    return norm.add(x, residual, x_norm)


def total_of(read: Tensor | Normed, total: Tensor | None) -> Tensor:
    """The total of what `normed_input` gave, after the block."""
    found = read.total if isinstance(read, Normed) else total
    if found is None:
        raise RuntimeError("no layer has read what was normed for it")
    return found


def _is_one_op(norm: RMSNorm, x: Tensor, block: nn.Module | None) -> bool:
    """Whether the op spares launches, and nobody looks at what is between."""
    # A subclass may do other things with its input.
    if not isinstance(block, Block) or "input_layer" not in vars(type(block)):
        return False
    layer = block.input_layer()
    if not isinstance(layer, QuantLinear) or type(layer) not in (QuantLinear, QuantGatedLinear):
        return False
    if layer.layout != PACKED or not _has_few_rows(x, layer.qtype):
        return False
    return not any(is_looked_at(module) for module in (norm, block, layer))


def _has_few_rows(x: Tensor, qtype: int) -> bool:
    """Whether the op norms and multiplies x with fewer launches than two ops: a matter of time."""
    if torch.compiler.is_compiling():  # a limit would be one for every other size, too
        return all(size == 1 for size in x.shape[:-1])
    size, row = x.numel(), x.shape[-1]
    return size <= row or size <= row * most_fused_rows(x.device, qtype)


def is_looked_at(module: nn.Module) -> bool:
    """Whether a hook on a module, or another forward than its own, may look at what goes in and
    out."""
    hooks = chain(
        module._forward_hooks.values(),
        module._forward_pre_hooks.values(),
        module._backward_hooks.values(),
        module._backward_pre_hooks.values(),
    )
    return (
        module._compiled_call_impl is not None
        or "forward" in module.__dict__
        or not all(isinstance(hook, BlindHook) for hook in hooks)
    )
