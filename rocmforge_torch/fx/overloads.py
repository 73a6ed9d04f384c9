"""Ops are called by their overload, so that passes need to know one name of each."""

from __future__ import annotations

import torch
from torch import fx


def resolve_overloads(gm: fx.GraphModule) -> None:
    """Replaces op packets that have a single overload by it: ops.f -> ops.f.default."""
    for node in gm.graph.nodes:
        target = node.target
        if isinstance(target, torch._ops.OpOverloadPacket) and len(target.overloads()) == 1:
            node.target = getattr(target, target.overloads()[0])
