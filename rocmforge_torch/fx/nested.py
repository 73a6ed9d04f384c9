"""Applies a pass to a GraphModule and to every GraphModule inside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult


def graph_modules(gm: torch.nn.Module) -> list[fx.GraphModule]:
    """`gm` and the GraphModules inside it."""
    return [m for m in gm.modules() if isinstance(m, fx.GraphModule)]


def run_nested(gm: fx.GraphModule, one: Callable[[fx.GraphModule], bool]) -> PassResult:
    """`one(graph_module) -> modified`, innermost graphs first; modified graphs are recompiled."""
    modified = False
    seen: set[int] = set()

    def visit(module: torch.nn.Module) -> None:
        nonlocal modified
        if id(module) in seen:
            return
        seen.add(id(module))
        for child in module.children():
            visit(child)
        if isinstance(module, fx.GraphModule) and one(module):
            module.graph.lint()
            module.recompile()
            modified = True

    visit(gm)
    return PassResult(gm, modified)
