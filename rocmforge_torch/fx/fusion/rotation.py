"""Rotary positions as Hugging Face's models write them out -> rope."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from rocmforge_torch.fx.fusion.patterns import (
    FLOATS,
    arguments,
    aten,
    is_conversion,
    is_plain_sum,
    is_written,
    name_of,
    rocmforge,
    unchanged_between,
    value_of,
)
from rocmforge_torch.fx.memory import Memory

rms_norm = rocmforge.rms_norm.default
SWAPS = {"transpose": ((1, 2), (2, 1)), "permute": ([0, 2, 1, 3],)}  # of heads and tokens
RESHAPES = ("view", "_unsafe_view", "reshape")


@dataclass(frozen=True)
class Angles:
    """What cosine and sine are taken of, and multiplied by.

    Attributes:
        positions: int [B or 1, T].
        inv_freq: float32 [D / 2].
        scale: of cosine and sine.
        first: the first node that reads one of the two.
        chain: the nodes from there on to the cosine or sine.
    """

    positions: fx.Node
    inv_freq: fx.Node
    scale: float
    first: fx.Node
    chain: tuple[fx.Node, ...] = field(compare=False)


def rotated(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """x * cos + cat(-x2, x1) * sin, of heads before tokens [B, H, T, D] -> rope [B, T, H, D]."""
    found = _match(node, memory)
    if found is None:
        return None
    x, angles = found
    out, source = value_of(node), value_of(x)
    if out is None or source is None or out.dtype != source.dtype:
        return None
    if out.dtype not in FLOATS or not out.transpose(1, 2).is_contiguous():
        return None
    graph = node.graph
    positions = _positions(angles, x, memory)
    if positions is None:
        return None
    positions, inv_freq = (
        _as_it_was(n, angles, node, memory) for n in (positions, angles.inv_freq)
    )
    with graph.inserting_before(node):
        given = (_swapped(x, node, memory), positions, inv_freq, False, angles.scale)
        rope = graph.call_function(rocmforge.rope.default, given)
        rope.meta["val"] = out.transpose(1, 2)
        swaps = [user for user in node.users if _is_swap(user)]
        if len(swaps) == len(node.users) or _are_one(out):
            return dict.fromkeys([node, *swaps], rope)
        back = graph.call_function(aten.transpose.int, (rope, 1, 2))
    return {node: back, **dict.fromkeys(swaps, rope)}


def _match(node: fx.Node, memory: Memory) -> tuple[fx.Node, Angles] | None:
    """What is rotated, and by which angles."""
    value = value_of(node)
    if not is_plain_sum(node) or value is None or value.dim() != 4:
        return None
    for straight, crossed in (node.args, tuple(reversed(node.args))):
        x, cos = _factors(straight, "cos")
        halves, sin = _factors(crossed, "sin")
        if x is None or cos is None or halves is None or sin != cos:
            continue
        inner: list[Any] = [node, straight, crossed, halves, *halves.all_input_nodes]
        values = [*inner, *cos.chain, *sin.chain]
        if not _swaps_halves(halves, x, cos.inv_freq) or any(is_written(n, memory) for n in values):
            continue
        if unchanged_between((x,), min(inner), node, memory):
            return x, cos
    return None


def _factors(product: Any, function: str) -> tuple[fx.Node | None, Angles | None]:
    """What is multiplied by the cosine or sine of angles, and the angles."""
    if name_of(product) == "mul" and len(product.args) == 2:
        for x, factor in (product.args, tuple(reversed(product.args))):
            angles = _angles(factor, function)
            if angles is not None and isinstance(x, fx.Node):
                return x, angles
    return None, None


def _angles(node: Any, function: str) -> Angles | None:
    """Of cos or sin [B or 1, 1, T, D], rounded and scaled or not."""
    if name_of(node) != "unsqueeze" or node.args[1] != 1:
        return None
    factor, node, scale = node, _unrounded(node.args[0]), 1.0
    if name_of(node) == "mul" and isinstance(node.args[1], (int, float)):
        node, scale = _unrounded(node.args[0]), float(node.args[1])
    if name_of(node) != function:
        return None
    angle = _half_of_doubled(node.args[0])
    if angle is None or name_of(angle) != "mul" or len(angle.args) != 2:
        return None
    wide, inv_freq = angle.args
    column = _unrounded(wide)
    positions: Any = column.args[0] if name_of(column) == "unsqueeze" else None
    place, value, frequencies = value_of(positions), value_of(wide), value_of(inv_freq)
    if place is None or value is None or frequencies is None or column.args[1] not in (2, -1):
        return None
    fits = place.dim() == 2 and not place.is_floating_point() and value.dtype == torch.float32
    if not fits or frequencies.dim() != 1 or frequencies.dtype != torch.float32:
        return None
    chain = (factor, factor.args[0], node, node.args[0], angle, wide)
    return Angles(positions, inv_freq, scale, column, chain)


def _unrounded(node: Any) -> Any:
    return node.args[0] if is_conversion(node) else node


def _half_of_doubled(node: Any) -> Any:
    """x [B, T, R] of cat(x, x), or of the copies that a compiler makes of that."""
    if name_of(node) == "cat":
        parts, *dim = node.args
        same = len(parts) == 2 and parts[0] is parts[1] and dim in ([-1], [2])
        return parts[0] if same else None
    if name_of(node) not in RESHAPES or name_of(node.args[0]) != "clone":
        return None
    expanded = node.args[0].args[0]
    if name_of(expanded) != "expand" or name_of(expanded.args[0]) != "unsqueeze":
        return None
    single = expanded.args[0]
    half, wide, whole = (value_of(n) for n in (single.args[0], expanded, node))
    if half is None or wide is None or whole is None or single.args[1] not in (2, -2):
        return None
    doubled = wide.dim() == 4 and wide.shape[2] == 2 and half.dim() == whole.dim() == 3
    fits = doubled and repr((*half.shape[:-1], 2 * half.shape[2])) == repr((*whole.shape,))
    return single.args[0] if fits else None


def _swaps_halves(node: Any, x: fx.Node, inv_freq: fx.Node) -> bool:
    """Whether a node is cat(-x2, x1) along the last dimension, of as many pairs as frequencies."""
    value, frequencies = value_of(x), value_of(inv_freq)
    if value is None or frequencies is None or name_of(node) != "cat":
        return False
    half, size = frequencies.shape[0], value.shape[3]
    parts, *dim = node.args
    if size != 2 * half or len(parts) != 2 or dim not in ([-1], [3]):
        return False
    negated, low = parts
    return (
        name_of(negated) == "neg"
        and _is_part(negated.args[0], x, half, size)
        and _is_part(low, x, 0, half)
    )


def _is_part(node: Any, x: fx.Node, start: int, end: int) -> bool:
    if name_of(node) != "slice" or node.args[0] is not x or node.kwargs:
        return False
    value = value_of(node)
    is_last = node.args[1:2] in ((3,), (-1,)) and node.args[2:3] == (start,)
    return is_last and len(node.args) == 4 and value is not None and value.shape[3] == end - start


def _positions(angles: Angles, x: fx.Node, memory: Memory) -> fx.Node | None:
    """Positions [B, T], or [T] where all sequences have the same."""
    place, value = value_of(angles.positions), value_of(x)
    assert place is not None
    assert value is not None
    if repr((*place.shape,)) == repr((value.shape[0], value.shape[2])):
        return angles.positions
    if place.shape[0] != 1 or repr(place.shape[1]) != repr(value.shape[2]):
        return None
    return _at_the_angles(aten.select.int, (angles.positions, 0, 0), angles, place[0], memory)


def _as_it_was(value: fx.Node, angles: Angles, reader: fx.Node, memory: Memory) -> fx.Node:
    """What the angles were computed of, for a later reader: a copy, unless nothing has written in
    between. (A write to one input, such as a cache, may be one to another.)"""
    if unchanged_between((value,), angles.first, reader, memory):
        return value
    return _at_the_angles(aten.clone.default, (value,), angles, value.meta["val"], memory)


def _at_the_angles(
    op: Any, args: tuple[Any, ...], angles: Angles, value: Any, memory: Memory
) -> fx.Node:
    """A node where the angles are computed, one for all that are rotated by them."""
    place = next((node for node in angles.chain if args[0] in node.all_input_nodes), angles.first)
    for user in args[0].users:
        if user.target is op and user.args == args and user < place:
            return user
    with place.graph.inserting_before(place):
        node = place.graph.call_function(op, args)
    node.meta["val"] = value
    memory.add(node)
    return node


def _is_swap(node: fx.Node) -> bool:
    given = node.args[1:] if name_of(node) == "transpose" else (*node.args[1:], None)[0]
    return given in SWAPS.get(name_of(node), ())


def _are_one(value: Tensor) -> bool:
    """Whether there is one head and one token, so that a swap of them is no node of its own."""
    return all(isinstance(size, int) and size == 1 for size in value.shape[1:3])


def _swapped(x: fx.Node, reader: fx.Node, memory: Memory) -> fx.Node:
    """x with tokens before heads, by taking back a swap where there was one; a norm of single
    heads, as Gemma's, may stand behind it."""
    if _is_swap(x):
        source = x.args[0]
        assert isinstance(source, fx.Node)
        return source
    if _are_one(x.meta["val"]):
        return x
    if x.target is rms_norm:
        inner, weight, eps = arguments(x, "x", "weight", "eps")
        if _is_swap(inner) and unchanged_between((inner, weight), x, reader, memory):
            normed = x.graph.call_function(rms_norm, (inner.args[0], weight, eps))
            normed.meta["val"] = inner.args[0].meta["val"].contiguous()
            return normed
    swapped = x.graph.call_function(aten.transpose.int, (x, 1, 2))
    swapped.meta["val"] = x.meta["val"].transpose(1, 2)
    return swapped
