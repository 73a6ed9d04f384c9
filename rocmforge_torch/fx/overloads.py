"""Ops are called by their overload, so that passes need to know one name of each."""

from __future__ import annotations

import torch
from torch import fx

from rocmforge_torch.fx.behaviour import bind, overloads_of


def resolve_overloads(gm: fx.GraphModule) -> None:
    """Replaces op packets by the overload that is meant: ops.f(x) -> ops.f.default(x).

    A packet stays where several overloads have parameters by which the arguments could go: which
    one is meant depends on types, known when the graph runs.
    """
    for node in gm.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverloadPacket):
            fitting = [op for op in overloads_of(node) if bind(op._schema, node) is not None]
            if len(fitting) == 1:
                node.target = fitting[0]
