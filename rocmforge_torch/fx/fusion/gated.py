"""Activations and the products before them."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx

from rocmforge_torch.fx.fusion.activations import activation
from rocmforge_torch.fx.fusion.patterns import (
    arguments,
    aten,
    is_op_result,
    is_written,
    rocmforge,
    same_shape_and_dtype,
    unchanged_between,
)
from rocmforge_torch.fx.memory import Memory

MULS = (aten.mul.Tensor, operator.mul, torch.mul)
SPLITS = (aten.split_with_sizes.default, aten.split.Tensor, aten.chunk.default)
GATED: dict[Any, str] = {rocmforge.silu_mul.default: "silu", rocmforge.gelu_mul.default: "gelu"}


def activate_and_multiply(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """silu(gate) * up, gelu(gate) * up -> silu_mul, gelu_mul."""
    if node.target not in MULS or len(node.args) != 2 or not is_op_result(node):
        return None
    for activated, up in (node.args, reversed(node.args)):
        if not isinstance(activated, fx.Node) or not same_shape_and_dtype(activated, up):
            continue
        found = activation(activated)
        if found is None or len(activated.users) != 1 or is_written(activated, memory):
            continue
        fused, gate = found
        if not unchanged_between((gate,), gate, node, memory):
            continue
        with node.graph.inserting_before(node):
            product = node.graph.call_function(fused, (gate, up))
        return {node: product}
    return None


def gated_product(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """silu_mul of the two halves of a product -> quant_matmul_gated."""
    act = GATED.get(node.target)
    if act is None:
        return None
    gate, up = node.args
    halves = _parent_of_halves(gate, up)
    if halves is None or halves.target is not rocmforge.quant_matmul.default:
        return None
    if len(halves.users) != 1 or is_written(halves, memory):
        return None
    x, qweight, qtype, bias, layout = arguments(halves, "x", "qweight", "qtype", "bias", "layout")
    given = (x, qweight, qtype, act, bias, layout)
    if not unchanged_between((x, qweight, bias), halves, node, memory):
        return None
    with node.graph.inserting_before(node):
        fused = node.graph.call_function(rocmforge.quant_matmul_gated.default, given)
    return {node: fused}


def _parent_of_halves(gate: Any, up: Any) -> fx.Node | None:
    """The node whose first half along the last dimension is `gate` and whose second is `up`."""
    parts = [n for n in (gate, up) if isinstance(n, fx.Node) and n.target is operator.getitem]
    if len(parts) != 2 or parts[0].args[0] is not parts[1].args[0]:
        return None
    if (parts[0].args[1], parts[1].args[1]) != (0, 1):
        return None
    split = parts[0].args[0]
    assert isinstance(split, fx.Node)
    if split.target not in SPLITS:
        return None
    whole, pieces = split.args[0], split.meta.get("val")
    dim = split.args[2] if len(split.args) > 2 else split.kwargs.get("dim", 0)
    if not isinstance(whole, fx.Node) or not isinstance(pieces, (list, tuple)):
        return None
    last = dim in (-1, pieces[0].dim() - 1)
    return whole if last and len(pieces) == 2 and same_shape_and_dtype(gate, up) else None
