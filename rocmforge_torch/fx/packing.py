"""Weights of products are packed once, ahead of execution."""

from __future__ import annotations

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch import ops  # noqa: F401  (registers the operators)
from rocmforge_torch.fx.attributes import attribute_of, new_attribute
from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.nested import graph_modules, run_nested
from rocmforge_torch.fx.overloads import resolve_overloads
from rocmforge_torch.fx.products import Product, product_of


def pack_weights(gm: fx.GraphModule, device_types: tuple[str, ...] = ("cuda",)) -> PassResult:
    """Gives quant_matmul its weights in the packed layout, on the devices where that is faster.

    A weight that anything else reads, in any graph, stays as the file has it, so that there is
    never a second copy. Nested graphs are treated too.
    """
    everywhere = graph_modules(gm)
    for module in everywhere:
        resolve_overloads(module)
    nodes = [node for module in everywhere for node in module.graph.nodes]
    packed: dict[int, Tensor] = {}
    for key, products in _products(everywhere, device_types).items():
        qweight = products[0].qweight
        readers = {user for n in nodes if _yields(n, qweight) for user in n.users}
        if readers == {p.node for p in products}:
            packed[key] = torch.ops.rocmforge.pack_weight(qweight, products[0].qtype)
    return run_nested(gm, lambda module: _pack_in(module, packed))


def _products(
    everywhere: list[fx.GraphModule], device_types: tuple[str, ...]
) -> dict[int, list[Product]]:
    """The products on these devices by the identity of their weight."""
    found: dict[int, list[Product]] = {}
    for gm in everywhere:
        memory = Memory(gm.graph)
        for node in gm.graph.nodes:
            product = product_of(node, memory)
            if product is not None and product.qweight.device.type in device_types:
                found.setdefault(id(product.qweight), []).append(product)
    return found


def _pack_in(gm: fx.GraphModule, packed: dict[int, Tensor]) -> bool:
    memory = Memory(gm.graph)
    names: dict[int, str] = {}
    for node in list(gm.graph.nodes):
        product = product_of(node, memory)
        if product is None or id(product.qweight) not in packed:
            continue
        key = id(product.qweight)
        if key not in names:
            names[key] = new_attribute(gm, "packed_qweight", packed[key])
        with gm.graph.inserting_before(node):
            weight = gm.graph.get_attr(names[key])
        node.args = (product.x, weight, product.qtype, product.bias, 1)
        node.kwargs = {}
    return bool(names)


def _yields(node: fx.Node, value: torch.Tensor) -> bool:
    return node.op == "get_attr" and attribute_of(node) is value
