"""What stands between the projections and attention."""

from __future__ import annotations

import operator
from typing import Any

import torch
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
write, rope_write = rocmforge.kv_cache_write_, rocmforge.rope_kv_cache_write_
functionalized = torch.ops.higher_order.auto_functionalized_v2
NO_NORM = (None, None)  # weight and epsilon


def rotate_and_write(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """rope of query and key and kv_cache_write_, with the norms before them ->
    rope_kv_cache_write_."""
    if node.target is not write.default:
        return None
    k_cache, v_cache, key, v, slots = arguments(node, "k_cache", "v_cache", "k", "v", "slots")
    if not _is_rope(key, memory) or len(key.users) != 1:
        return None
    query = _query_of(key, node, memory)
    if query is None:
        return None
    given = _arguments(query, key, v, slots, node, memory)
    if given is None:
        return None
    with node.graph.inserting_before(node):
        fused = node.graph.call_function(
            rope_write.default, (), {"k_cache": k_cache, "v_cache": v_cache, **given}
        )
    # `key`, and norms, are left without a reader for dead code elimination.
    return {node: fused, query: fused}


def rotate_and_write_anew(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """The same where the write is functional, as AOTAutograd makes it: it returns new caches, which
    attention reads with the query."""
    if node.target is not functionalized or node.args[0] is not write.default:
        return None
    given_to: dict[str, Any] = dict(node.kwargs)
    key, v, slots = (given_to[name] for name in ("k", "v", "slots"))
    if not _is_rope(key, memory) or len(key.users) != 1:
        return None
    query = _query_beside(node)
    if not _is_rope(query, memory) or not _same(
        arguments(query, *ROTATION), arguments(key, *ROTATION)
    ):
        return None
    assert isinstance(query, fx.Node)
    place, caches = max(node, query), list(node.users)
    readers = [*query.users, *(reader for cache in caches for reader in cache.users)]
    if not all(cache.target is operator.getitem for cache in caches) or min(readers) < place:
        return None
    given = _arguments(query, key, v, slots, place, memory)
    if given is None:
        return None
    bases = {name: value for name, value in given_to.items() if name.startswith("_")}
    with node.graph.inserting_before(place):
        fused = node.graph.call_function(functionalized, (rope_write.default,), {**given, **bases})
        rotated = node.graph.call_function(operator.getitem, (fused, 0))
    for cache in caches:
        rotated.append(cache)
    node.meta["val"] = (query.meta["val"], *node.meta["val"][1:])  # which the new node gets
    return {node: fused, query: rotated}


def _query_beside(node: fx.Node) -> Any:
    """What is compared with the keys that a functional write returns; None if that is not one."""
    keys = [cache for cache in node.users if cache.args[1:] == (1,)]
    readers = {reader for cache in keys for reader in cache.users}
    queries = {n.args[0] for n in readers if n.target is rocmforge.attention.default}
    return queries.pop() if len(queries) == 1 else None


def _arguments(
    query: fx.Node, key: fx.Node, v: Any, slots: Any, place: fx.Node, memory: Memory
) -> dict[str, Any] | None:
    """What the fused op gets beside the caches, at a place behind its inputs."""
    k, k_norm, k_eps = _before(key, place, memory)
    q, q_norm, q_eps = _before(query, place, memory)
    if k_norm is not None and q_norm is not None and k_eps != q_eps:
        (k, k_norm, k_eps), (q, q_norm, q_eps) = ((n.args[0], *NO_NORM) for n in (key, query))
    if not _fits(q, k, v):
        return None
    rotation = dict(zip(ROTATION, arguments(key, *ROTATION), strict=True))
    eps = next((e for e in (q_eps, k_eps) if e is not None), 0.0)
    norms = {"q_norm": q_norm, "k_norm": k_norm, "eps": eps}
    return {"q": q, "k": k, "v": v, "slots": slots, **rotation, **norms}


def _is_rope(node: Any, memory: Memory) -> bool:
    is_rope = isinstance(node, fx.Node) and node.target is rocmforge.rope.default
    return is_rope and not is_written(node, memory)


def _query_of(key: fx.Node, end: fx.Node, memory: Memory) -> fx.Node | None:
    """The last rotation by the same angles that nothing reads before the write."""
    order = {node: place for place, node in enumerate(end.graph.nodes)}
    wanted = arguments(key, *ROTATION)
    found = None
    for node in end.graph.nodes:
        if node is key or not _is_rope(node, memory) or not node.users:
            continue
        x = node.args[0]
        read_later = all(order[user] > order[end] for user in node.users)
        if not read_later or order[x] > order[end] or not _same(arguments(node, *ROTATION), wanted):
            continue
        if order[node] > order[end]:
            unchanged = unchanged_between((x, *wanted), end.prev, node, memory)
        else:
            unchanged = unchanged_between((x, *wanted), node, end, memory)
        found = node if unchanged else found
    return found


def _same(some: tuple[Any, ...], others: tuple[Any, ...]) -> bool:
    """Whether arguments are equal; two nodes may yield one attribute."""

    def identity(argument: Any) -> Any:
        is_attribute = isinstance(argument, fx.Node) and argument.op == "get_attr"
        return id(attribute_of(argument)) if is_attribute else argument

    return [*map(identity, some)] == [*map(identity, others)]


def _before(
    rope: fx.Node, place: fx.Node, memory: Memory
) -> tuple[Any, fx.Node | None, float | None]:
    """What the fused op gets in the place of a rotation: its input, a norm's weight, epsilon."""
    (x,) = arguments(rope, "x")
    if x.target is not rocmforge.rms_norm.default or len(x.users) != 1 or is_written(x, memory):
        return x, *NO_NORM
    source, weight, eps = arguments(x, "x", "weight", "eps")
    if weight is None or not unchanged_between((source, weight), x, place, memory):
        return x, *NO_NORM
    return source, weight, eps


def _fits(q: Any, k: Any, v: Any) -> bool:
    """Whether the op takes tensors of these shapes."""
    values = [value for value in map(value_of, (q, k, v)) if value is not None]
    if len(values) < 3 or len({repr((*x.shape[:-2], x.dtype)) for x in values}) != 1:
        return False
    return repr(values[0].shape[-1]) == repr(values[1].shape[-1])
