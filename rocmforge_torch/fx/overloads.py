"""Ops are called by their overload, so that passes need to know one name of each."""

from __future__ import annotations

from typing import Any

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


def out_overload(target: Any) -> tuple[torch._ops.OpOverload, list[str]] | None:
    """The overload that writes its results to given tensors, and the names of those arguments.

    None for an op without one, for one whose out= overload computes the result elsewhere and copies
    it (torch.Tag.generated), and for ops made of other ops, which may choose other ones for out=.
    """
    if not isinstance(target, torch._ops.OpOverload):
        return None
    if torch._C._dispatch_has_kernel_for_dispatch_key(target.name(), "CompositeImplicitAutograd"):
        return None
    wanted = [(a.name, str(a.type)) for a in target._schema.arguments]
    packet = target._overloadpacket
    for name in packet.overloads():
        op = getattr(packet, name)
        outs = [a.name for a in op._schema.arguments if a.is_out]
        others = [(a.name, str(a.type)) for a in op._schema.arguments if not a.is_out]
        if outs and others == wanted and len(outs) == len(target._schema.returns):
            return None if torch.Tag.generated in op.tags else (op, outs)
    return None
