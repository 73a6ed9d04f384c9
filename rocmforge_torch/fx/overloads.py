"""Ops are called by their overload, so that passes need to know one name of each."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def resolve_overloads(gm: fx.GraphModule) -> None:
    """Replaces op packets that have a single overload, besides those with `out=`, by it:
    ops.f -> ops.f.default."""
    for node in gm.graph.nodes:
        if isinstance(node.target, torch._ops.OpOverloadPacket):
            ops = [getattr(node.target, name) for name in node.target.overloads()]
            plain = [op for op in ops if not any(a.is_out for a in op._schema.arguments)]
            if len(plain) == 1 and not any(a.is_out for a in _given(node, ops)):
                node.target = plain[0]


def _given(node: fx.Node, ops: list[torch._ops.OpOverload]) -> list[torch.Argument]:
    """The arguments that the node passes by name."""
    return [a for op in ops for a in op._schema.arguments if a.name in node.kwargs]


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
