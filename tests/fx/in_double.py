"""A float64 oracle: what a float32 graph computes, with every number in float64."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

rocmforge = torch.ops.rocmforge


def run_in_double(gm: fx.GraphModule, inputs: Sequence[Any]) -> list[Any]:
    """The outputs of the graph, converted with its inputs, weights and constants."""
    doubled = copy.deepcopy(gm).double()
    with torch.no_grad(), _Double():
        return pytree.tree_leaves(doubled(*_double([*inputs])))


class _Double(TorchDispatchMode):
    """Conversions to float32 become conversions to float64; products are those of the numbers."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _double((args, kwargs or {}))
        if func is rocmforge.quant_matmul.default:
            return _product(*args, **kwargs)
        if func is rocmforge.rms_norm.default:
            x, weight, eps = args
            return torch.nn.functional.rms_norm(x, x.shape[-1:], weight, eps)
        return func(*args, **kwargs)


def _double(values: Any) -> Any:
    def one(value: Any) -> Any:
        if isinstance(value, Tensor) and value.dtype == torch.float32:
            return value.double()
        return torch.float64 if value is torch.float32 else value

    return pytree.tree_map(one, values)


def _product(x: Tensor, qweight: Tensor, qtype: int, bias: Tensor | None = None) -> Tensor:
    weight = rocmforge.dequantize(qweight, qtype, torch.float32).double()
    return torch.nn.functional.linear(x, weight, bias)
