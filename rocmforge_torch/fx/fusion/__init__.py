"""Neighbouring ops become one op of the contract."""

from __future__ import annotations

from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch.fx.fusion.cache import rotate_and_write, rotate_and_write_anew
from rocmforge_torch.fx.fusion.gated import activate_and_multiply, gated_product
from rocmforge_torch.fx.fusion.norm_products import norm_and_multiply
from rocmforge_torch.fx.fusion.norms import add_and_norm, norm_and_add, weight_of_constants
from rocmforge_torch.fx.fusion.patterns import Rewrite
from rocmforge_torch.fx.fusion.products import add_bias
from rocmforge_torch.fx.fusion.rotation import rotated
from rocmforge_torch.fx.fusion.written_norms import (
    between_conversions,
    norm_of_torch,
    times_weight,
    written_out,
)
from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.nested import run_nested
from rocmforge_torch.fx.overloads import resolve_overloads

ARGUMENTS = "eager_input_vals"  # Inductor's note of what a node was called with
REWRITES: tuple[Rewrite, ...] = (
    written_out,
    times_weight,
    between_conversions,
    norm_of_torch,
    weight_of_constants,
    activate_and_multiply,
    gated_product,
    add_bias,
    rotated,
)
# Later ones hide ops that earlier ones look for: a norm must have its weight before it is joined
# with anything.
STAGES: tuple[tuple[Rewrite, ...], ...] = (
    REWRITES,
    (add_and_norm, norm_and_add, rotate_and_write, rotate_and_write_anew),
    (norm_and_multiply,),
)


def fuse(gm: fx.GraphModule) -> PassResult:
    """Applies every fusion until none applies, in nested graphs too.

    A value inside of a fused group that something else reads keeps the group apart, unless the
    fused op returns it too; so does one that is written to. Nodes must have been annotated
    (shapes.annotate); others stay. Values may differ in the last bit: a fused op rounds less often.
    """
    return run_nested(gm, _fuse)


def _fuse(gm: fx.GraphModule) -> bool:
    resolve_overloads(gm)
    modified = False
    for rewrites in STAGES:
        while _sweep(gm, rewrites):
            modified = True
    return modified


def _sweep(gm: fx.GraphModule, rewrites: tuple[Rewrite, ...]) -> bool:
    """Applies what applies at every node, and at every node that this inserts."""
    memory = Memory(gm.graph)
    waiting = list(reversed(gm.graph.nodes))
    gone: set[fx.Node] = set()
    while waiting:
        node = waiting.pop()
        if node in gone:
            continue
        found = (rewrite(node, memory) for rewrite in rewrites)
        replaced = next((r for r in found if r is not None), None)
        if replaced is None:
            continue
        inserted = [n for n in gm.graph.nodes if n not in memory.behaviours]
        for new in inserted:
            memory.add(new)
        for old, new in replaced.items():
            new.meta.update({k: v for k, v in old.meta.items() if k != ARGUMENTS})
            memory.merge(new, old)
            old.replace_all_uses_with(new)
        gone |= _erase(list(replaced), memory)
        waiting += reversed(inserted)
    return bool(gone)


def _erase(replaced: list[fx.Node], memory: Memory) -> set[fx.Node]:
    """Erases nodes, the last one first, and what only they read: a product that nobody needs any
    more must not be part of another fusion. Returns what went."""
    gone: set[fx.Node] = set()
    read: list[fx.Node] = []
    for node in reversed(replaced):
        read += node.all_input_nodes
        node.graph.erase_node(node)
        gone.add(node)
    while read:
        node = read.pop()
        needless = node.op == "call_function" and memory.behaviours[node].is_functional
        if needless and not node.users and node not in gone:
            read += node.all_input_nodes
            node.graph.erase_node(node)
            gone.add(node)
    return gone
