"""Weights of products are packed once, ahead of execution."""

from __future__ import annotations

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch import ops  # noqa: F401  (registers the operators)
from rocmforge_torch.fx.attributes import attribute_of, new_attribute
from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.overloads import resolve_overloads
from rocmforge_torch.fx.products import Product, product_of


def pack_weights(gm: fx.GraphModule, device_types: tuple[str, ...] = ("cuda",)) -> PassResult:
    """Gives quant_matmul its weights in the packed layout, on the devices where that is faster.

    A weight that anything else reads stays as the file has it, so that there is never a second
    copy.
    """
    resolve_overloads(gm)
    memory = Memory(gm.graph)
    by_weight: dict[int, list[Product]] = {}
    for node in gm.graph.nodes:
        product = product_of(node, memory)
        if product is not None and product.qweight.device.type in device_types:
            by_weight.setdefault(id(product.qweight), []).append(product)
    modified = False
    for products in by_weight.values():
        qweight = products[0].qweight
        readers = {user for n in gm.graph.nodes if _yields(n, qweight) for user in n.users}
        if readers != {p.node for p in products}:
            continue
        packed = torch.ops.rocmforge.pack_weight(qweight, products[0].qtype)
        name = new_attribute(gm, "packed_qweight", packed)
        for product in products:
            with gm.graph.inserting_before(product.node):
                weight = gm.graph.get_attr(name)
            product.node.args = (product.x, weight, product.qtype, product.bias, 1)
            product.node.kwargs = {}
        modified = True
    if modified:
        gm.recompile()
    return PassResult(gm, modified)


def _yields(node: fx.Node, value: torch.Tensor) -> bool:
    return node.op == "get_attr" and attribute_of(node) is value
