"""Norms, and the sums before them."""

from __future__ import annotations

import operator

import torch
from torch import Tensor, fx

from rocmforge_torch.fx.attributes import attribute_of, new_attribute
from rocmforge_torch.fx.fusion.patterns import (
    arguments,
    can_move,
    is_op_result,
    is_plain_sum,
    is_written,
    rocmforge,
    same_shape_and_dtype,
    unchanged_between,
    value_of,
)
from rocmforge_torch.fx.memory import Memory

rms_norm, add_rms_norm = rocmforge.rms_norm.default, rocmforge.add_rms_norm.default


def add_and_norm(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """rms_norm(a + b) and a + b -> add_rms_norm."""
    if node.target is not rms_norm:
        return None
    total, weight, eps = arguments(node, "x", "weight", "eps")
    if not is_plain_sum(total) or is_written(total, memory) or not is_op_result(total):
        return None
    a, b = total.args
    if not same_shape_and_dtype(a, b) or not can_move(weight):
        return None
    if not unchanged_between((weight,), total, node, memory):
        return None
    with node.graph.inserting_before(total):
        if isinstance(weight, fx.Node) and weight.op == "get_attr":
            moved = node.graph.get_attr(str(weight.target))
            moved.meta.update(weight.meta)
            weight = moved
        both = node.graph.call_function(add_rms_norm, (a, b, weight, eps))
        normed = node.graph.call_function(operator.getitem, (both, 0))
        added = node.graph.call_function(operator.getitem, (both, 1))
    return {total: added, node: normed}


def norm_and_add(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """add_rms_norm(rms_norm(x, w), residual) -> add_rms_norm(x, residual) with x_weight w."""
    if node.target is not add_rms_norm:
        return None
    a, b, weight, eps, present = arguments(node, "x", "residual", "weight", "eps", "x_weight")
    if present is not None:
        return None
    for normed, residual in ((a, b), (b, a)):
        if normed.target is not rms_norm or len(normed.users) != 1 or is_written(normed, memory):
            continue
        x, x_weight, x_eps = arguments(normed, "x", "weight", "eps")
        if x_weight is None or x_eps != eps or not _same_dtype(x_weight, weight):
            continue
        if not unchanged_between((x, x_weight), normed, node, memory):
            continue
        with node.graph.inserting_before(node):
            both = node.graph.call_function(add_rms_norm, (x, residual, weight, eps, x_weight))
        return {node: both}
    return None


def weight_of_constants(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """rms_norm(x, 1 + w) of a constant w -> rms_norm(x, w') with w' computed once, now."""
    if node.target is not rms_norm:
        return None
    x, weight, eps = arguments(node, "x", "weight", "eps")
    if not isinstance(weight, fx.Node) or weight.op == "get_attr":
        return None
    value = _constant(weight, memory)
    gm = node.graph.owning_module
    if value is None or not isinstance(gm, fx.GraphModule):
        return None
    with node.graph.inserting_before(node):
        folded = node.graph.get_attr(new_attribute(gm, "norm_weight", value.detach()))
        folded.meta.update(weight.meta)
        normed = node.graph.call_function(rms_norm, (x, folded, eps))
    return {node: normed}


def _constant(node: fx.Node, memory: Memory) -> Tensor | None:
    """What a node computes from attributes that nothing writes; None if it is something else."""
    if is_written(node, memory):
        return None
    if node.op == "get_attr":
        value = attribute_of(node)
        return value if isinstance(value, Tensor) else None
    if node.op not in ("call_function", "call_method") or not node.all_input_nodes:
        return None
    if not memory.behaviours[node].is_functional:
        return None
    values = {n: _constant(n, memory) for n in node.all_input_nodes}
    if any(value is None for value in values.values()):
        return None
    args, kwargs = torch.fx.node.map_arg((node.args, node.kwargs), lambda n: values[n])
    with torch.no_grad():
        if node.op == "call_method":
            result = getattr(args[0], str(node.target))(*args[1:], **kwargs)
        else:
            assert callable(node.target)
            result = node.target(*args, **kwargs)
    return result if isinstance(result, Tensor) else None


def _same_dtype(a: fx.Node, b: fx.Node | None) -> bool:
    """Of two weights, of which the second may be missing."""
    x, y = value_of(a), value_of(b)
    return x is not None and (b is None or (y is not None and x.dtype == y.dtype))
