"""What follows a product."""

from __future__ import annotations

import torch
from torch import fx

from rocmforge_torch.fx.fusion.patterns import (
    arguments,
    is_op_result,
    is_plain_sum,
    is_written,
    rocmforge,
    unchanged_between,
    value_of,
)
from rocmforge_torch.fx.memory import Memory


def add_bias(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """quant_matmul(x, w) + bias -> quant_matmul(x, w, bias)."""
    if not is_plain_sum(node) or not is_op_result(node):
        return None
    for product, bias in (node.args, reversed(node.args)):
        if not isinstance(product, fx.Node) or not isinstance(bias, fx.Node):
            continue
        if product.target is not rocmforge.quant_matmul.default or len(product.users) != 1:
            continue
        x, qweight, qtype, present, layout = arguments(
            product, "x", "qweight", "qtype", "bias", "layout"
        )
        if present is not None or is_written(product, memory) or not _is_bias(bias, product):
            continue
        if not unchanged_between((x, qweight), product, node, memory):
            continue
        with node.graph.inserting_before(node):
            fused = node.graph.call_function(
                rocmforge.quant_matmul.default, (x, qweight, qtype, bias, layout)
            )
        return {node: fused}
    return None


def _is_bias(bias: fx.Node, product: fx.Node) -> bool:
    value, out = value_of(bias), value_of(product)
    if value is None or out is None:
        return False
    fits = value.dim() == 1 and repr(value.shape[0]) == repr(out.shape[-1])
    return fits and value.dtype in (out.dtype, torch.float32) and out.dtype == value.dtype
