"""What rewrites ask of a graph."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from rocmforge_torch.fx.behaviour import bind, overloads_of
from rocmforge_torch.fx.memory import Memory

aten, rocmforge = torch.ops.aten, torch.ops.rocmforge
FLOATS = (torch.float32, torch.float16, torch.bfloat16)
ADDS = (aten.add.Tensor, operator.add, torch.add)

CONVERSIONS = ("to", "_to_copy", "type_as", "float", "half", "bfloat16", "convert_element_type")

# What stands for the old nodes, new ones inserted; None where the pattern is not there.
Rewrite = Callable[[fx.Node, Memory], dict[fx.Node, fx.Node] | None]

_OPERATORS = {operator.add: "add", operator.mul: "mul", operator.pow: "pow"}


def name_of(node: Any) -> str:
    """How PyTorch calls what a node does, be it an op of aten, a function or a method."""
    if not isinstance(node, fx.Node):
        return ""
    target = node.target
    if node.op == "call_method":
        return str(target)
    if isinstance(target, torch._ops.OpOverload):
        known = target.namespace in ("aten", "prims")  # Inductor turns some of the first into these
        return target._schema.name.partition("::")[2] if known else ""
    if node.op != "call_function":
        return ""
    if target in _OPERATORS:
        return _OPERATORS[target]
    return getattr(target, "__name__", "") if overloads_of(node) else ""


def arguments(node: fx.Node, *names: str) -> tuple[Any, ...]:
    """The named arguments of an op, with their defaults."""
    op = node.target
    assert isinstance(op, torch._ops.OpOverload)
    defaults = {a.name: a.default_value for a in op._schema.arguments if a.has_default_value()}
    bound = defaults | (bind(op._schema, node) or {})
    return tuple(bound[name] for name in names)


def value_of(node: Any) -> Tensor | None:
    """The fake tensor that a node was annotated with."""
    value = node.meta.get("val") if isinstance(node, fx.Node) else None
    return value if isinstance(value, Tensor) else None


def is_written(node: fx.Node, memory: Memory) -> bool:
    return memory.group(node) in memory.written or node in memory.reshaped


def is_conversion(node: Any) -> bool:
    """Whether a node changes the dtype of a tensor and nothing else."""
    if name_of(node) not in CONVERSIONS or not isinstance(node.args[0], fx.Node):
        return False
    old, new = value_of(node.args[0]), value_of(node)
    if old is None or new is None or old.device != new.device:
        return False
    layouts = [repr((tuple(t.shape), t.stride())) for t in (old, new)]
    return layouts[0] == layouts[1] and new.is_floating_point()


def can_move(weight: Any) -> bool:
    return weight is None or weight.op in ("get_attr", "placeholder")


def same_shape_and_dtype(a: Any, b: Any) -> bool:
    x, y = value_of(a), value_of(b)
    if x is None or y is None:
        return False
    return repr(tuple(x.shape)) == repr(tuple(y.shape)) and x.dtype == y.dtype


def is_plain_sum(node: Any) -> bool:
    """Whether a node adds two things, none of them times a factor."""
    is_sum = isinstance(node, fx.Node) and node.target in ADDS
    return is_sum and len(node.args) == 2 and not node.kwargs


def is_op_result(node: Any) -> bool:
    """Whether a value could be the result of an op of ours: its dtype, and rows in order."""
    value = value_of(node)
    return value is not None and value.dtype in FLOATS and value.is_contiguous()


def unchanged_between(values: Iterable[Any], start: fx.Node, end: fx.Node, memory: Memory) -> bool:
    """Whether no node between the two may write to the values: they can be read at `end` too."""
    groups = {memory.group(value) for value in values if isinstance(value, fx.Node)}
    outside = bool(groups & memory.outside)
    node = start.next
    while node is not end:
        behaviour = memory.behaviours[node]
        if behaviour.is_effectful and not overloads_of(node):
            return False
        for written in behaviour.writes | behaviour.reshapes:
            group = memory.group(written)
            if group in groups or (outside and group in memory.outside):
                return False
        node = node.next
    return True
