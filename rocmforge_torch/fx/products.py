"""Products of one input with several weights become one product and a split."""

from __future__ import annotations

import operator
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch import ops  # noqa: F401  (registers the operators)
from rocmforge_torch.fx.attributes import attribute_of, new_attribute
from rocmforge_torch.fx.behaviour import bind
from rocmforge_torch.fx.memory import Memory, Versions
from rocmforge_torch.fx.nested import run_nested
from rocmforge_torch.fx.overloads import resolve_overloads

getitem = operator.getitem
quant_matmul = torch.ops.rocmforge.quant_matmul.default
split = torch.ops.aten.split_with_sizes.default


@dataclass(frozen=True)
class Product:
    """A quant_matmul node over a constant weight."""

    node: fx.Node
    x: fx.Node
    weight: fx.Node
    qtype: int
    bias: fx.Node | None


def product_of(node: fx.Node, memory: Memory) -> Product | None:
    """The product that `node` is, if its weight and bias are attributes that nothing writes."""
    if node.target is not quant_matmul:
        return None
    bound: dict[str, Any] = {"bias": None, "layout": 0} | (bind(quant_matmul._schema, node) or {})
    x, weight, bias = bound["x"], bound["qweight"], bound["bias"]
    if bound["layout"] != 0 or weight.op != "get_attr" or memory.group(weight) in memory.written:
        return None
    if bias is not None and (bias.op != "get_attr" or memory.group(bias) in memory.written):
        return None
    return Product(node, x, weight, bound["qtype"], bias)


def merge_products(gm: fx.GraphModule) -> PassResult:
    """q, k and v, or gate and up: weights of one type with the same input are stacked once, ahead
    of execution, and their products are views of one.

    The rows of a product do not depend on each other, so that values stay the same to the bit. A
    view of a wider row has other strides: a product that leaves its graph stays on its own. Nested
    graphs are treated one by one.
    """
    return run_nested(gm, _merge_in)


def _merge_in(gm: fx.GraphModule) -> bool:
    resolve_overloads(gm)
    memory = Memory(gm.graph)
    versions = Versions(memory)
    groups: dict[Hashable, list[Product]] = {}
    for node in gm.graph.nodes:
        versions.step(node)
        product = product_of(node, memory)
        group = memory.group(node)
        if product is None or group in memory.escaping or group in memory.written:
            continue
        weight = attribute_of(product.weight)
        bias = attribute_of(product.bias) if product.bias is not None else None
        like = None if bias is None else (bias.dtype, bias.device)
        key = (product.x, versions.of(product.x), product.qtype, weight.shape[1], weight.device)
        groups.setdefault((*key, like), []).append(product)
    merged = [products for products in groups.values() if len(products) > 1]
    for products in merged:
        _merge(gm, products)
    return bool(merged)


def _merge(gm: fx.GraphModule, products: list[Product]) -> None:
    weights: list[Tensor] = [attribute_of(p.weight) for p in products]
    first = products[0]
    with gm.graph.inserting_before(first.node):
        weight = gm.graph.get_attr(new_attribute(gm, "merged_qweight", torch.cat(weights)))
        bias = None
        if first.bias is not None:
            biases = torch.cat([attribute_of(p.bias) for p in products if p.bias is not None])
            bias = gm.graph.get_attr(new_attribute(gm, "merged_bias", biases))
        whole = gm.graph.call_function(quant_matmul, (first.x, weight, first.qtype, bias))
        sizes = [w.shape[0] for w in weights]
        parts = gm.graph.call_function(split, (whole, sizes, -1))
        views = [gm.graph.call_function(getitem, (parts, i)) for i in range(len(products))]
    for product, view in zip(products, views, strict=True):
        product.node.replace_all_uses_with(view)
        _accept_strides(view)
        gm.graph.erase_node(product.node)


def _accept_strides(view: fx.Node) -> None:
    """A `view` that needed contiguous rows becomes a `reshape`."""
    for user in view.users:
        if user.target is torch.ops.aten.view.default:
            user.target = torch.ops.aten.reshape.default
