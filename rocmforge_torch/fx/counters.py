"""What a step counts by is computed before anything else."""

from __future__ import annotations

from itertools import takewhile

from torch import Tensor, fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch.fx.behaviour import behaviour_of


def counters_first(gm: fx.GraphModule) -> PassResult:
    """Moves to the front what follows from inputs alone and is integers: slots, lengths, positions.

    Kernels of a captured step may read these while the kernels ahead of them still run
    (docs/graphs.md), so whatever computes them must not stand directly ahead. Nodes behind the
    first one that writes to something stay where they are.
    """
    nodes = [n for n in gm.graph.nodes if n.op not in ("placeholder", "output")]
    first, early = gm.graph.output_node(), set(gm.graph.find_nodes(op="placeholder"))
    modified = False
    for node in takewhile(lambda node: behaviour_of(node).is_functional, nodes):
        first = node if first.op == "output" else first
        if not _is_integers(node) or not early.issuperset(node.all_input_nodes):
            continue
        early.add(node)
        if node is first:
            first = node.next
        else:
            first.prepend(node)
            modified = True
    return PassResult(gm, modified)


def _is_integers(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()
