"""Weights of products are packed once, ahead of execution."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch import ops  # noqa: F401  (registers the operators)
from rocmforge_torch.fx.attributes import attribute_of, new_attribute
from rocmforge_torch.fx.behaviour import bind
from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.nested import graph_modules, run_nested
from rocmforge_torch.fx.overloads import resolve_overloads

rocmforge = torch.ops.rocmforge
# The ops that know layout 1, and what they call their weight.
WEIGHTS = {
    rocmforge.quant_matmul.default: "qweight",
    rocmforge.quant_matmul_gated.default: "qweight_gate_up",
    rocmforge.norm_quant_matmul.default: "qweight",
}


@dataclass(frozen=True)
class Reader:
    """A product whose weight is an attribute, in layout 0, that nothing writes.

    Attributes:
        node, op, arguments: the product, what it calls, and with what by name.
        name: which of them is the weight.
        qweight: its tensor.
    """

    node: fx.Node
    op: torch._ops.OpOverload
    arguments: dict[str, Any]
    name: str
    qweight: Tensor


def pack_weights(gm: fx.GraphModule, device_types: tuple[str, ...] = ("cuda",)) -> PassResult:
    """Gives products their weights in the packed layout, on the devices where that is faster.

    A weight that anything else reads, in any graph, stays as the file has it, so that there is
    never a second copy. Nested graphs are treated too.
    """
    everywhere = graph_modules(gm)
    for module in everywhere:
        resolve_overloads(module)
    readers: dict[int, list[Reader]] = {}
    for module in everywhere:
        for reader in _readers(module):
            if reader.qweight.device.type in device_types:
                readers.setdefault(id(reader.qweight), []).append(reader)
    nodes = [node for module in everywhere for node in module.graph.nodes]
    packed: dict[int, Tensor] = {}
    for key, found in readers.items():
        qweight, qtype = found[0].qweight, found[0].arguments["qtype"]
        users = {user for n in nodes if _yields(n, qweight) for user in n.users}
        if users == {reader.node for reader in found}:
            packed[key] = rocmforge.pack_weight(qweight, qtype)
    return run_nested(gm, lambda module: _pack_in(module, packed))


def _readers(gm: fx.GraphModule) -> Iterator[Reader]:
    memory = Memory(gm.graph)
    for node in list(gm.graph.nodes):
        op = node.target
        if not isinstance(op, torch._ops.OpOverload) or op not in WEIGHTS:
            continue
        name, arguments = WEIGHTS[op], bind(op._schema, node) or {}
        weight = arguments[name]
        written = weight.op != "get_attr" or memory.group(weight) in memory.written
        if not written and arguments.get("layout", 0) == 0:
            yield Reader(node, op, arguments, name, attribute_of(weight))


def _pack_in(gm: fx.GraphModule, packed: dict[int, Tensor]) -> bool:
    names: dict[int, str] = {}
    for reader in _readers(gm):
        key = id(reader.qweight)
        if key not in packed:
            continue
        if key not in names:
            names[key] = new_attribute(gm, "packed_qweight", packed[key])
        node = reader.node
        with gm.graph.inserting_before(node):
            weight = gm.graph.get_attr(names[key])
        given = reader.arguments | {reader.name: weight, "layout": 1}
        schema = reader.op._schema.arguments
        node.args = tuple(given.get(a.name, a.default_value) for a in schema)
        node.kwargs = {}
    return bool(names)


def _yields(node: fx.Node, value: Tensor) -> bool:
    return node.op == "get_attr" and attribute_of(node) is value
