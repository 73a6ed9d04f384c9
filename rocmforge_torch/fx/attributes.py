"""Attributes of a GraphModule that get_attr nodes name."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx


def attribute_of(node: fx.Node) -> Any:
    """The object that a get_attr node yields."""
    return operator.attrgetter(str(node.target))(node.graph.owning_module)


def new_attribute(gm: fx.GraphModule, stem: str, value: torch.Tensor) -> str:
    """Registers `value` as a buffer under the first free name STEM_N, which is returned."""
    number = 0
    while hasattr(gm, f"{stem}_{number}"):
        number += 1
    gm.register_buffer(f"{stem}_{number}", value)
    return f"{stem}_{number}"
