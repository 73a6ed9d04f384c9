"""What stands between the projections and attention."""

from __future__ import annotations

from typing import Any

from torch import fx

from rocmforge_torch.fx.attributes import attribute_of
from rocmforge_torch.fx.fusion.patterns import (
    arguments,
    is_written,
    rocmforge,
    unchanged_between,
    value_of,
)
from rocmforge_torch.fx.memory import Memory

ROTATION = ("positions", "inv_freq", "interleaved", "scale")
NO_NORM = (None, None)  # weight and epsilon


def rotate_and_write(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """rope of query and key and kv_cache_write_, with the norms before them ->
    rope_kv_cache_write_."""
    if node.target is not rocmforge.kv_cache_write_.default:
        return None
    k_cache, v_cache, key, v, slots = arguments(node, "k_cache", "v_cache", "k", "v", "slots")
    if not _is_rope(key, memory) or len(key.users) != 1:
        return None
    query = _query_of(key, node, memory)
    if query is None:
        return None
    k, k_norm, k_eps = _before(key, node, memory)
    q, q_norm, q_eps = _before(query, node, memory)
    if k_norm is not None and q_norm is not None and k_eps != q_eps:
        (k, k_norm, k_eps), (q, q_norm, q_eps) = ((n.args[0], *NO_NORM) for n in (key, query))
    if not _fits(q, k, v):
        return None
    eps = next((e for e in (q_eps, k_eps) if e is not None), 0.0)
    given = (k_cache, v_cache, q, k, v, slots, *arguments(key, *ROTATION), q_norm, k_norm, eps)
    with node.graph.inserting_before(node):
        fused = node.graph.call_function(rocmforge.rope_kv_cache_write_.default, given)
    # `key`, and norms, are left without a reader for dead code elimination.
    return {node: fused, query: fused}


def _is_rope(node: Any, memory: Memory) -> bool:
    is_rope = isinstance(node, fx.Node) and node.target is rocmforge.rope.default
    return is_rope and not is_written(node, memory)


def _query_of(key: fx.Node, write: fx.Node, memory: Memory) -> fx.Node | None:
    """The last rotation by the same angles that nothing reads before the write."""
    order = {node: place for place, node in enumerate(write.graph.nodes)}
    wanted = arguments(key, *ROTATION)
    found = None
    for node in write.graph.nodes:
        if node is key or not _is_rope(node, memory) or not node.users:
            continue
        x = node.args[0]
        read_later = all(order[user] > order[write] for user in node.users)
        if (
            not read_later
            or order[x] > order[write]
            or not _same(arguments(node, *ROTATION), wanted)
        ):
            continue
        if order[node] > order[write]:
            unchanged = unchanged_between((x, *wanted), write.prev, node, memory)
        else:
            unchanged = unchanged_between((x, *wanted), node, write, memory)
        found = node if unchanged else found
    return found


def _same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether arguments are equal; two nodes may yield one attribute."""

    def identity(argument: Any) -> Any:
        is_attribute = isinstance(argument, fx.Node) and argument.op == "get_attr"
        return id(attribute_of(argument)) if is_attribute else argument

    return [*map(identity, some)] == [*map(identity, others)]


def _before(
    rope: fx.Node, write: fx.Node, memory: Memory
) -> tuple[Any, fx.Node | None, float | None]:
    """What the fused op gets in the place of a rotation: its input, a norm's weight, epsilon."""
    (x,) = arguments(rope, "x")
    if x.target is not rocmforge.rms_norm.default or len(x.users) != 1 or is_written(x, memory):
        return x, *NO_NORM
    source, weight, eps = arguments(x, "x", "weight", "eps")
    if weight is None or not unchanged_between((source, weight), x, write, memory):
        return x, *NO_NORM
    return source, weight, eps


def _fits(q: Any, k: Any, v: Any) -> bool:
    """Whether the op takes tensors of these shapes."""
    values = [value for value in map(value_of, (q, k, v)) if value is not None]
    if len(values) < 3 or len({repr((*x.shape[:-2], x.dtype)) for x in values}) != 1:
        return False
    return repr(values[0].shape[-1]) == repr(values[1].shape[-1])
