"""Common subexpression elimination: equal ops on equal arguments become one."""

from __future__ import annotations

import struct
from collections.abc import Hashable
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch.fx.attributes import attribute_of
from rocmforge_torch.fx.behaviour import bind, overloads_of
from rocmforge_torch.fx.memory import Memory, Versions
from rocmforge_torch.fx.nested import run_nested


def eliminate_common_subexpressions(gm: fx.GraphModule) -> PassResult:
    """Replaces every node by an earlier one that certainly computes the same.

    Kept apart: random, effectful and mutating nodes; reads on two sides of a write that may touch
    what they read; results that are written to later or handed out to the caller twice, which must
    stay two tensors.
    """
    return run_nested(gm, _eliminate)


def _eliminate(gm: fx.GraphModule) -> bool:
    memory = Memory(gm.graph)
    versions = Versions(memory)
    seen: dict[Hashable, fx.Node] = {}
    modified = False
    for node in list(gm.graph.nodes):
        versions.step(node)
        if node.op in ("placeholder", "output") or not memory.behaviours[node].is_functional:
            continue
        key = _key(node, memory, versions)
        if key is None:
            continue
        first = seen.setdefault(key, node)
        if first is not node and _may_be_one(first, node, memory):
            memory.merge(first, node)
            node.replace_all_uses_with(first)
            gm.graph.erase_node(node)
            modified = True
    return modified


def _may_be_one(first: fx.Node, second: fx.Node, memory: Memory) -> bool:
    """Whether nobody can tell the two results apart later."""
    if first in memory.reshaped or second in memory.reshaped:
        return False
    if memory.behaviours[second].is_view or second.op == "get_attr":
        return True
    groups = {memory.group(first), memory.group(second)}
    return not groups & memory.written and not groups <= memory.escaping


def _key(node: fx.Node, memory: Memory, versions: Versions) -> Hashable | None:
    """Equal for nodes that compute the same; None if that cannot be said."""
    if node.op == "get_attr":
        return _attribute_key(node, memory)
    try:
        arguments = _arguments(node)
    except TypeError:  # an argument that is not plain data
        return None
    # A view reads no element: it is the same before and after a write.
    reads = () if memory.behaviours[node].is_view else node.all_input_nodes
    return node.op, node.target, arguments, tuple(versions.of(n) for n in reads)


def _attribute_key(node: fx.Node, memory: Memory) -> Hashable:
    value = attribute_of(node)
    lifted = type(value) is torch.Tensor and value.layout == torch.strided
    group = memory.group(node)
    if lifted and group not in memory.written and group not in memory.escaping:
        path, _, name = str(node.target).rpartition(".")
        root = node.graph.owning_module
        owner = root.get_submodule(path) if root is not None else None
        if owner is not None and name not in owner._buffers and value.numel() <= 1024:
            content = value.detach().cpu().contiguous().view(-1).view(torch.uint8)
            about = (value.dtype, value.device, tuple(value.shape), value.stride())
            return "constant", about, bytes(content.tolist()), value.requires_grad
    return "get_attr", id(value)


def _arguments(node: fx.Node) -> Hashable:
    """The arguments by name with defaults filled in, where a schema tells; else as written."""
    fitting = []
    for op in overloads_of(node):
        bound = bind(op._schema, node)
        if bound is not None:
            fitting.append((op, bound))
    if len(fitting) == 1:
        op, bound = fitting[0]
        defaults = {a.name: a.default_value for a in op._schema.arguments if a.has_default_value()}
        return frozenset((k, freeze(v)) for k, v in (defaults | bound).items())
    return freeze(node.args), freeze(node.kwargs)


_PLAIN_TYPES = (
    str,
    type(None),
    type(Ellipsis),
    torch.dtype,
    torch.device,
    torch.layout,
    torch.memory_format,
)


def freeze(value: Any) -> Hashable:
    """A hashable that is equal for equal arguments: 1, 1.0 and True are three, and so are 0.0
    and -0.0. TypeError for what is not plain data."""
    if isinstance(value, fx.Node):
        return "node", value
    if isinstance(value, (list, tuple)):
        return "sequence", tuple(freeze(v) for v in value)
    if isinstance(value, dict):
        return "dict", tuple(sorted((repr(k), freeze(v)) for k, v in value.items()))
    if isinstance(value, slice):
        return "slice", freeze((value.start, value.stop, value.step))
    if isinstance(value, (bool, int)):
        return type(value).__name__, value
    if isinstance(value, float):
        return "float", struct.pack("d", value)
    if isinstance(value, complex):
        return "complex", struct.pack("dd", value.real, value.imag)
    if isinstance(value, _PLAIN_TYPES):
        return type(value).__name__, value
    raise TypeError(f"not plain data: {type(value).__name__}")
