"""Norms that a model writes out, as Hugging Face's do, or has from PyTorch -> rms_norm."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from rocmforge_torch.fx.fusion.patterns import (
    arguments,
    is_conversion,
    is_written,
    name_of,
    rocmforge,
    same_shape_and_dtype,
    unchanged_between,
    value_of,
)
from rocmforge_torch.fx.memory import Memory

rms_norm = rocmforge.rms_norm.default
ASSERTIONS = ("_assert_tensor_metadata",)


def written_out(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """x * rsqrt(mean(x^2, -1) + eps) of float32 x -> rms_norm(x) without a weight."""
    if name_of(node) != "mul" or len(node.args) != 2:
        return None
    for x, root in (node.args, reversed(node.args)):
        value = value_of(x)
        if value is None or value.dtype != torch.float32 or name_of(root) != "rsqrt":
            continue
        assert isinstance(root, fx.Node)
        square, eps = _square_and_epsilon(root.args[0], x)
        if square is None or not _stays(node, x) or is_written(node, memory):
            continue
        if not unchanged_between((x,), square, node, memory):
            continue
        with node.graph.inserting_before(node):
            return {node: node.graph.call_function(rms_norm, (x, None, eps))}
    return None


def times_weight(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """rms_norm(x) * w -> rms_norm(x, w)."""
    if name_of(node) != "mul" or len(node.args) != 2:
        return None
    for normed, weight in (node.args, reversed(node.args)):
        if not isinstance(normed, fx.Node) or normed.target is not rms_norm:
            continue
        x, present, eps = arguments(normed, "x", "weight", "eps")
        if present is not None or not _only_reader(normed, node) or not _is_weight(weight, x):
            continue
        if not same_shape_and_dtype(node, x):
            continue
        if not unchanged_between((x, normed), normed, node, memory):
            continue
        _drop_assertions(normed)
        with node.graph.inserting_before(node):
            return {node: node.graph.call_function(rms_norm, (x, weight, eps))}
    return None


def between_conversions(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """rms_norm(x.float()) in x's dtype -> rms_norm(x)."""
    normed = node.args[0] if is_conversion(node) else None
    if not isinstance(normed, fx.Node) or normed.target is not rms_norm:
        return None
    wide, weight, eps = arguments(normed, "x", "weight", "eps")
    if not is_conversion(wide) or not _only_reader(normed, node):
        return None
    x = wide.args[0]
    if not same_shape_and_dtype(node, x) or not _stays(node, x):
        return None
    if weight is not None and not _is_weight(weight, x):
        return None
    if not unchanged_between((x, normed), wide, node, memory):
        return None
    _drop_assertions(normed)
    with node.graph.inserting_before(node):
        return {node: node.graph.call_function(rms_norm, (x, weight, eps))}


def norm_of_torch(node: fx.Node, memory: Memory) -> dict[fx.Node, fx.Node] | None:
    """torch's rms_norm over the last dimension, or its module -> rms_norm."""
    found = _torchs_arguments(node)
    if found is None:
        return None
    x, weight, eps = found
    if not same_shape_and_dtype(node, x) or not _stays(node, x):
        return None
    # torch's own default: what float32, in which it computes, tells from 1.
    eps = torch.finfo(torch.float32).eps if eps is None else eps
    with node.graph.inserting_before(node):
        if isinstance(weight, str):
            weight = node.graph.get_attr(weight)
        return {node: node.graph.call_function(rms_norm, (x, weight, eps))}


def _torchs_arguments(node: fx.Node) -> tuple[Any, Any, Any] | None:
    """Input, weight (or the name of that attribute) and epsilon of PyTorch's norm over the last
    dimension."""
    if node.op == "call_module":
        owner = node.graph.owning_module
        assert owner is not None
        module = owner.get_submodule(str(node.target))
        x = node.args[0] if node.args else None
        if type(module) is not torch.nn.RMSNorm or module._forward_hooks or node.kwargs:
            return None
        if module._forward_pre_hooks or len(module.normalized_shape) != 1:
            return None
        if module.weight is None:
            return (x, None, module.eps) if isinstance(x, fx.Node) else None
        fits = _may_weigh(module.weight, value_of(x))
        return (x, f"{node.target}.weight", module.eps) if fits else None
    if name_of(node) != "rms_norm" and node.target is not torch.nn.functional.rms_norm:
        return None
    names = ("input", "normalized_shape", "weight", "eps")
    given = dict(zip(names, node.args, strict=False)) | node.kwargs
    x, shape, weight = given.get("input"), given.get("normalized_shape"), given.get("weight")
    if not isinstance(shape, (list, tuple)) or len(shape) != 1:
        return None
    if weight is not None and not _may_weigh(value_of(weight), value_of(x)):
        return None
    return x, weight, given.get("eps")


def _square_and_epsilon(total: Any, x: Any) -> tuple[fx.Node | None, float]:
    """x^2 and epsilon, if `total` is the mean of that over the last dimension, plus epsilon."""
    if name_of(total) == "add" and len(total.args) == 2 and not total.kwargs:
        for mean, eps in (total.args, reversed(total.args)):
            square = _square_in_mean(mean, x)
            if isinstance(eps, float) and square is not None:
                return square, eps
    return None, 0.0


def _square_in_mean(mean: Any, x: fx.Node) -> fx.Node | None:
    if name_of(mean) != "mean":
        return None
    given = dict(zip(("self", "dim", "keepdim", "dtype"), mean.args, strict=False)) | mean.kwargs
    dim, value = given.get("dim"), value_of(x)
    dims = tuple(dim) if isinstance(dim, (list, tuple)) else (dim,)
    if value is None or dims not in ((-1,), (value.dim() - 1,)) or given.get("dtype") is not None:
        return None
    square = given["self"]
    if not given.get("keepdim", False) or not isinstance(square, fx.Node):
        return None
    forms = {"square": (x,), "pow": (x, 2), "mul": (x, x)}
    return square if square.args == forms.get(name_of(square)) else None


def _is_weight(weight: Any, x: Any) -> bool:
    return _may_weigh(value_of(weight), value_of(x))


def _may_weigh(weight: torch.Tensor | None, x: torch.Tensor | None) -> bool:
    """Whether rms_norm takes this weight for x."""
    if weight is None or x is None or weight.dim() != 1 or weight.device != x.device:
        return False
    return bool(weight.shape[0] == x.shape[-1]) and weight.dtype in (x.dtype, torch.float32)


def _stays(node: fx.Node, x: Any) -> bool:
    """Whether the result is laid out as the op's would be."""
    value, source = value_of(node), value_of(x)
    if value is None or source is None or repr(value.shape) != repr(source.shape):
        return False
    return value.is_contiguous()


def _only_reader(value: fx.Node, reader: fx.Node) -> bool:
    """Whether nothing else reads the value, but for assertions about its dtype."""
    return all(user is reader or name_of(user) in ASSERTIONS for user in value.users)


def _drop_assertions(value: fx.Node) -> None:
    for user in list(value.users):
        if name_of(user) in ASSERTIONS:
            value.graph.erase_node(user)
