"""Intermediate results live in one arena, at offsets that are known before the graph runs."""

from __future__ import annotations

import operator
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.passes.infra.pass_base import PassResult
from torch.utils._pytree import tree_leaves

from rocmforge_torch.fx.arena import arena, check_inputs, expectation
from rocmforge_torch.fx.lifetimes import (
    Lifetime,
    aligned,
    arena_size,
    assign_offsets,
    peak_size,
)
from rocmforge_torch.fx.memory import Memory
from rocmforge_torch.fx.overloads import out_overload, resolve_overloads

aten = torch.ops.aten
# Ops that copy one tensor, for which aten only imitates out=.
COPIES = (aten.clone.default, aten._to_copy.default)


@dataclass(frozen=True)
class MemoryPlan:
    """What a plan is worth, in bytes; buffers are rounded up to 512.

    Attributes:
        planned, unplanned: tensors that have a place in the arena, and intermediates that have
            none: their shape is symbolic, they leave the graph, or their op cannot write to a
            given tensor.
        intermediate_bytes: of all planned tensors, as if none shared memory.
        arena_bytes: of the arenas, one for each device.
        peak_bytes: in use at the busiest moment: a lower bound of arena_bytes.
    """

    planned: int
    unplanned: int
    intermediate_bytes: int
    arena_bytes: int
    peak_bytes: int

    def __str__(self) -> str:
        return (
            f"memory plan: {self.planned} of {self.planned + self.unplanned} intermediates, "
            f"{self.intermediate_bytes:,} bytes in an arena of {self.arena_bytes:,} "
            f"(at least {self.peak_bytes:,})"
        )


@dataclass(frozen=True)
class _Buffer:
    """Where a node writes its result number `index`."""

    node: fx.Node
    index: int
    value: Tensor
    lifetime: Lifetime


def plan_memory(gm: fx.GraphModule, check: bool = True) -> PassResult:
    """Gives every intermediate that allows it a place in one arena.

    The arena comes from rocmforge_torch.allocator when the graph is called, anew for every call, so
    that calls may nest and run in threads; after the first call the allocator has it at hand. Ops
    write to it through their out= overloads. Planned are results of constant shape, contiguous,
    that do not leave the graph, neither themselves nor as views. Nodes must have been annotated
    (shapes.annotate): the planned graph refuses inputs that are not like the example's, and calls
    that would need a gradient. `check=False` leaves that to a caller who makes sure of both.

    `gm.meta["memory_plan"]` is the MemoryPlan. Graphs inside of `gm` keep their own memory.
    """
    resolve_overloads(gm)
    if any(node.target is arena for node in gm.graph.nodes):
        return PassResult(gm, False)
    memory = Memory(gm.graph)
    order = {node: i for i, node in enumerate(gm.graph.nodes)}
    buffers: list[_Buffer] = []
    unplanned = 0
    for node in gm.graph.nodes:
        found = _buffers_of(node, memory, order)
        buffers += found or []
        unplanned += found is None
    devices = {b.value.device: None for b in buffers}
    sizes = []
    for device in devices:
        here = [b for b in buffers if b.value.device == device]
        offsets = assign_offsets([b.lifetime for b in here])
        sizes.append(arena_size([b.lifetime for b in here], offsets))
        _write_to_arena(gm, here, offsets, device, sizes[-1])
    if buffers:
        if check:
            _guard(gm)
        gm.graph.lint()
        gm.recompile()
    gm.meta["memory_plan"] = MemoryPlan(
        planned=len(buffers),
        unplanned=unplanned,
        intermediate_bytes=sum(aligned(b.lifetime.size) for b in buffers),
        arena_bytes=sum(sizes),
        peak_bytes=sum(
            peak_size([b.lifetime for b in buffers if b.value.device == device])
            for device in devices
        ),
    )
    return PassResult(gm, bool(buffers))


def _buffers_of(node: fx.Node, memory: Memory, order: dict[fx.Node, int]) -> list[_Buffer] | None:
    """The buffers that the node's results need, none for a node that makes no new tensor; None
    for one that has to allocate them itself."""
    behaviour = memory.behaviours[node]
    if node.op in ("placeholder", "get_attr", "output") or behaviour.aliases or behaviour.writes:
        return []
    value = node.meta.get("val")
    values = list(value) if isinstance(value, (list, tuple)) else [value]
    if not any(isinstance(v, Tensor) for v in values):
        return []
    if not behaviour.is_functional or not (_is_copy(node) or out_overload(node.target)):
        return None
    if not all(map(_is_plain, node.all_input_nodes)):
        return None
    tensors = [v for v in values if isinstance(v, Tensor) and _is_static(v)]
    if len(tensors) < len(values):
        return None
    buffers = []
    for index, tensor in enumerate(tensors):
        holders = [node] if tensor is value else _parts(node, index)
        if holders is None:
            return None
        last = order[node]
        for holder in holders:
            end = _last_use(holder, memory, order)
            if end is None:
                return None
            last = max(last, end)
        lifetime = Lifetime(tensor.nbytes, order[node], last)
        buffers.append(_Buffer(node, index, tensor, lifetime))
    return buffers


def _parts(node: fx.Node, index: int) -> list[fx.Node] | None:
    """The nodes that take result number `index` out of the node's tuple; None if the tuple goes
    anywhere else."""
    if any(u.target is not operator.getitem or type(u.args[1]) is not int for u in node.users):
        return None
    count = len(node.meta["val"])
    return [u for u in node.users if u.args[1] in (index, index - count)]


def _last_use(node: fx.Node, memory: Memory, order: dict[fx.Node, int]) -> int | None:
    """The last step that may touch the memory of `node`; None if it may be touched later on."""
    last = order[node]
    waiting, seen = [node], {node}
    while waiting:
        holder = waiting.pop()
        if holder in memory.reshaped:
            return None
        for user in holder.users:
            behaviour = memory.behaviours[user]
            if behaviour.is_effectful or _is_kept_by(user, holder):
                return None
            last = max(last, order[user])
            if holder in behaviour.aliases and user not in seen:
                seen.add(user)
                waiting.append(user)
    return last


def _is_kept_by(user: fx.Node, value: fx.Node) -> bool:
    """Whether `user` puts the tensor into a list or dictionary, from where it may go anywhere."""
    if user.target is not operator.setitem or user.args[2] is not value:
        return False
    container = user.args[0]
    known = container.meta.get("val") if isinstance(container, fx.Node) else None
    return not isinstance(known, Tensor)


def _is_static(value: Tensor) -> bool:
    return (
        value.layout == torch.strided
        and all(type(n) is int for n in (*value.shape, *value.stride()))
        and value.numel() > 0
        and value.is_contiguous()
        and value.device.type in ("cpu", "cuda")
        and not (value.is_conj() or value.is_neg())
    )


def _is_plain(node: fx.Node) -> bool:
    """Not a tensor subclass, which may not know out=."""
    tensors = [v for v in tree_leaves(node.meta.get("val")) if isinstance(v, Tensor)]
    return all(type(v) is FakeTensor for v in tensors)


def _is_copy(node: fx.Node) -> bool:
    if node.target not in COPIES or not isinstance(node.args[0], fx.Node):
        return False
    source, value = node.args[0].meta.get("val"), node.meta.get("val")
    return (
        isinstance(source, Tensor)
        and isinstance(value, Tensor)
        and source.device == value.device
        and source.layout == torch.strided
    )


def _write_to_arena(
    gm: fx.GraphModule, buffers: list[_Buffer], offsets: list[int], device: torch.device, size: int
) -> None:
    graph = gm.graph
    with graph.inserting_before(_first_step(graph)):
        memory = graph.call_function(arena, (size, device))
    views: dict[tuple[int, torch.dtype, tuple[int, ...]], fx.Node] = {}
    typed: dict[torch.dtype, fx.Node] = {}
    outs: dict[fx.Node, list[fx.Node]] = {}
    for buffer, offset in zip(buffers, offsets, strict=True):
        value, dtype = buffer.value, buffer.value.dtype
        place = (offset, dtype, tuple(value.shape))
        with graph.inserting_before(buffer.node):
            if dtype not in typed:
                typed[dtype] = graph.call_function(aten.view.dtype, (memory, dtype))
            if place not in views:
                start = offset // dtype.itemsize
                arguments = (typed[dtype], list(value.shape), list(value.stride()), start)
                views[place] = graph.call_function(aten.as_strided.default, arguments)
        outs.setdefault(buffer.node, []).append(views[place])
    for node, places in outs.items():
        with graph.inserting_before(node):
            written = _written_to(node, places)
        written.meta.update(node.meta)
        node.replace_all_uses_with(written)
        graph.erase_node(node)


def _written_to(node: fx.Node, places: list[fx.Node]) -> fx.Node:
    """`node`, its results written to the given tensors."""
    found = out_overload(node.target)
    if found is None:
        return node.graph.call_function(aten.copy_.default, (places[0], node.args[0]))
    op, names = found
    kwargs = dict(node.kwargs) | dict(zip(names, places, strict=True))
    return node.graph.call_function(op, node.args, kwargs)


def _first_step(graph: fx.Graph) -> fx.Node:
    """The node behind the last input. (torch.export puts weights before inputs.)"""
    inputs = [n for n in graph.nodes if n.op == "placeholder"]
    return inputs[-1].next if inputs else next(iter(graph.nodes))


def _guard(gm: fx.GraphModule) -> None:
    inputs = [n for n in gm.graph.nodes if n.op == "placeholder"]
    expected = tuple(expectation(n.meta.get("val")) for n in inputs)
    trainable = any(t.requires_grad for t in _attributes(gm))
    with gm.graph.inserting_before(_first_step(gm.graph)):
        gm.graph.call_function(check_inputs, (tuple(inputs), expected, trainable))


def _attributes(gm: fx.GraphModule) -> Iterator[Tensor]:
    for module in gm.modules():
        for value in [*module._parameters.values(), *vars(module).values()]:
            if isinstance(value, Tensor):
                yield value
