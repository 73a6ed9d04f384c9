"""Norms and the products that read them."""

from __future__ import annotations

import math
import operator
from dataclasses import dataclass
from typing import Any

from torch import fx

from rocmforge_torch.fx.fusion.patterns import (
    arguments,
    is_written,
    rocmforge,
    unchanged_between,
    value_of,
)
from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.ops.reference import UNGATED
from rocmforge_torch.tuning.in_force import most_fused_rows

norm_quant_matmul = rocmforge.norm_quant_matmul.default
quant_matmul, gated = rocmforge.quant_matmul.default, rocmforge.quant_matmul_gated.default


@dataclass(frozen=True)
class Norm:
    """A norm as norm_quant_matmul takes it.

    Attributes:
        node: the op; `total` is its sum, where it has one.
        normed: what products read.
    """

    node: fx.Node
    normed: fx.Node
    total: fx.Node | None
    x: fx.Node
    weight: fx.Node | None
    eps: float
    residual: fx.Node | None
    x_weight: fx.Node | None


def norm_and_multiply(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """rms_norm or add_rms_norm, and the one product that reads it -> norm_quant_matmul."""
    norm = _norm_of(node)
    if norm is None or is_written(norm.normed, memory):
        return None
    if len(norm.normed.users) != 1:
        return None
    (product,) = norm.normed.users
    inputs = (norm.x, norm.weight, norm.residual, norm.x_weight)
    if not _multiplies(product, norm.normed):
        return None
    if not unchanged_between(inputs, node, product, memory):
        return None
    if norm.total is not None and not (
        all(user > product for user in norm.total.users) and not is_written(norm.total, memory)
    ):
        return None
    qweight, qtype, act, bias, layout = _operands(product)
    if not _has_few_rows(norm.normed, qtype):
        return None
    given = (norm.x, norm.weight, norm.eps, qweight, qtype, act, bias, layout)
    with node.graph.inserting_before(product):
        both = node.graph.call_function(norm_quant_matmul, (*given, norm.residual, norm.x_weight))
        replaced = {product: node.graph.call_function(operator.getitem, (both, 0))}
        if norm.total is not None:
            replaced[norm.total] = node.graph.call_function(operator.getitem, (both, 1))
    return replaced


def _norm_of(node: fx.Node) -> Norm | None:
    if node.target is rocmforge.rms_norm.default:
        x, weight, eps = arguments(node, "x", "weight", "eps")
        return Norm(node, node, None, x, weight, eps, None, None)
    if node.target is not rocmforge.add_rms_norm.default:
        return None
    parts = {user.args[1]: user for user in node.users if user.target is operator.getitem}
    if len(parts) != len(node.users) or 0 not in parts:
        return None
    x, weight, eps, residual, x_weight = arguments(
        node, "x", "weight", "eps", "residual", "x_weight"
    )
    return Norm(node, parts[0], parts.get(1), x, weight, eps, residual, x_weight)


def _has_few_rows(node: fx.Node, qtype: int) -> bool:
    """Whether a GPU norms where it prepares rows for the product, by the limits now in force; the
    result of a norm of more rows is better off in the memory plan's arena than inside of an op."""
    value = value_of(node)
    if value is None or value.dim() == 0:
        return False
    rows = math.prod(value.shape[:-1])  # Size.numel() would hold a symbolic size to its example's
    return isinstance(rows, int) and rows <= most_fused_rows(value.device, qtype)


def _multiplies(node: fx.Node, x: fx.Node) -> bool:
    """Whether a node is a product of x that reads it for nothing else."""
    if node.target not in (quant_matmul, gated) or node.all_input_nodes.count(x) != 1:
        return False
    (read,) = arguments(node, "x")
    return read is x


def _operands(product: fx.Node) -> tuple[Any, ...]:
    """The arguments of norm_quant_matmul that a product gives."""
    if product.target is quant_matmul:
        qweight, qtype, bias, layout = arguments(product, "qweight", "qtype", "bias", "layout")
        return qweight, qtype, UNGATED, bias, layout
    return arguments(product, "qweight_gate_up", "qtype", "act", "bias", "layout")
