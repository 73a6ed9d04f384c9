"""Views that change nothing, or change it back, become the tensor that they view."""

from __future__ import annotations

from collections.abc import Hashable

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.nested import run_nested
from rocmforge_torch.fx.shapes import place_of


def cancel_views(gm: fx.GraphModule) -> PassResult:
    """Replaces every node that is the same view of the same memory as an earlier one.

    That covers a reshape to the same shape, `contiguous` of what is, a transpose undone by another,
    a conversion to the dtype that it has; in nested graphs too. Nodes must have been annotated
    (shapes.annotate); others stay.
    """
    return run_nested(gm, _cancel)


def _cancel(gm: fx.GraphModule) -> bool:
    memory = Memory(gm.graph)
    seen: dict[Hashable, fx.Node] = {}
    modified = False
    for node in list(gm.graph.nodes):
        place = place_of(node) if node.op != "output" else None
        if place is None or node in memory.reshaped:
            continue
        first = seen.setdefault(place, node)
        if first is node or node.op == "placeholder":
            continue
        if memory.behaviours[node].is_functional:
            node.replace_all_uses_with(first)
            gm.graph.erase_node(node)
            modified = True
    return modified
