"""Activations, as PyTorch has them and as its compiler writes them out."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from rocmforge_torch.fx.fusion.patterns import (
    aten,
    is_conversion,
    name_of,
    rocmforge,
    same_shape_and_dtype,
)

X = "x"  # what is activated, the same node wherever it stands
# An op's name and what it takes; two that are added or multiplied may stand in any order.
Expression = tuple[Any, ...]
WRITTEN_OUT: tuple[tuple[Any, Expression], ...] = (
    (rocmforge.silu_mul.default, ("div", X, ("add", ("exp", ("neg", X)), 1))),
    (rocmforge.silu_mul.default, ("mul", X, ("sigmoid", X))),
    (
        rocmforge.gelu_mul.default,
        (
            "mul",
            ("mul", X, 0.5),
            (
                "add",
                (
                    "tanh",
                    (
                        "mul",
                        ("add", X, ("mul", ("mul", ("mul", X, X), X), 0.044715)),
                        math.sqrt(2 / math.pi),
                    ),
                ),
                1,
            ),
        ),
    ),
)
SILUS = (aten.silu.default, torch.nn.functional.silu)
GELUS = (aten.gelu.default, torch.nn.functional.gelu)
COMMUTATIVE = ("add", "mul")


def activation(node: fx.Node) -> tuple[Any, fx.Node] | None:
    """The gated op that begins with this activation, and what is activated."""
    source = node.args[0] if node.args else None
    if node.target in SILUS and not node.kwargs.get("inplace", False):
        return _of(rocmforge.silu_mul.default, source)
    if node.target in GELUS and node.kwargs.get("approximate") == "tanh":
        return _of(rocmforge.gelu_mul.default, source)
    # Of 16-bit numbers it is written out in float32.
    wide = node.args[0] if is_conversion(node) else node
    for op, expression in WRITTEN_OUT:
        bound: dict[str, fx.Node] = {}
        if not _matches(wide, expression, bound):
            continue
        x = bound[X]
        if wide is not node and is_conversion(x):
            x = x.all_input_nodes[0]
        return _of(op, x) if same_shape_and_dtype(x, node) else None
    return None


def _of(op: Any, x: Any) -> tuple[Any, fx.Node] | None:
    return (op, x) if isinstance(x, fx.Node) else None


def _matches(node: Any, expression: Any, bound: dict[str, fx.Node]) -> bool:
    if expression == X:
        return isinstance(node, fx.Node) and bound.setdefault(X, node) is node
    if isinstance(expression, (int, float)):
        is_number = isinstance(node, (int, float))
        return is_number and math.isclose(node, expression, rel_tol=1e-9)
    name, *parts = expression
    if name_of(node) != name or len(node.args) != len(parts) or node.kwargs:
        return False
    orders = (node.args, node.args[::-1]) if name in COMMUTATIVE else (node.args,)
    for args in orders:
        attempt = dict(bound)
        if all(_matches(a, part, attempt) for a, part in zip(args, parts, strict=True)):
            bound.update(attempt)
            return True
    return False
