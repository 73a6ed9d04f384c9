"""The passes in their order."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import Any

import torch
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch.fx.cse import eliminate_common_subexpressions
from rocmforge_torch.fx.dce import eliminate_dead_code
from rocmforge_torch.fx.fusion import fuse
from rocmforge_torch.fx.memory_plan import plan_memory
from rocmforge_torch.fx.nested import graph_modules
from rocmforge_torch.fx.packing import pack_weights
from rocmforge_torch.fx.products import merge_products
from rocmforge_torch.fx.report import PassReport, Report
from rocmforge_torch.fx.shapes import annotate
from rocmforge_torch.fx.views import cancel_views
from rocmforge_torch.fx.widening import widen_weights

Pass = Callable[[fx.GraphModule], PassResult]

# name -> (pass, the level from which it runs, whether it needs shapes), in their order.
PASSES: dict[str, tuple[Pass, int, bool]] = {
    "cse": (eliminate_common_subexpressions, 1, False),
    "views": (cancel_views, 2, True),
    "widen": (widen_weights, 3, False),
    "merge": (merge_products, 2, False),
    "fuse": (fuse, 3, True),
    "pack": (pack_weights, 2, False),
    "dce": (eliminate_dead_code, 1, False),
    "plan": (plan_memory, 4, True),
}


def optimize(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any] | None = None,
    level: int = 3,
    disable: Collection[str] = (),
) -> fx.GraphModule:
    """A graph that computes the same with less work.

    Args:
        gm: what to optimise; it stays as it is, and the result shares its parameters.
        example_inputs: tensors (real or fake) like those it will be called with. Passes that need
            to know shapes are left out without them.
        level: 0 nothing; 1 CSE and DCE; 2 also views, merged and packed products; 3 also widened
            weights and fusion, the passes after which values may differ in the last bit; 4 also the
            memory plan, after which inputs must be like the examples.
        disable: names of passes to leave out, of fx.PASSES.

    Returns:
        A GraphModule; `.meta["report"]` is a Report.

    Raises:
        ValueError: `disable` names no pass.
    """
    check_passes(disable, "fx.optimize")
    gm = _copy(gm)
    describe = None if example_inputs is None else partial(annotate, example_inputs=example_inputs)
    run_passes(gm, level, disable, describe)
    return gm


def check_passes(disable: Collection[str], who: str) -> None:
    """Raises ValueError: `disable` names no pass."""
    unknown = set(disable) - PASSES.keys()
    if unknown:
        raise ValueError(f"{who}: no pass is called {sorted(unknown)}; there are {[*PASSES]}")


def run_passes(
    gm: fx.GraphModule,
    level: int,
    disable: Collection[str],
    describe: Callable[[fx.GraphModule], object] | None,
) -> None:
    """`optimize` in place; `describe` makes sure that every node has its `meta["val"]`."""
    report = Report()
    for name, (run, from_level, needs_shapes) in PASSES.items():
        if level < from_level or name in disable or (needs_shapes and describe is None):
            continue
        start = time.perf_counter()
        before = count_nodes(gm), attribute_bytes(gm)
        if needs_shapes and describe is not None:
            describe(gm)
        run(gm)
        saved = before[1] - attribute_bytes(gm)
        seconds = time.perf_counter() - start
        report.passes.append(PassReport(name, before[0], count_nodes(gm), saved, seconds))
    report.plan = gm.meta.get("memory_plan")
    gm.meta["report"] = report


def _copy(gm: fx.GraphModule) -> fx.GraphModule:
    """New graphs over the same tensors and the same called modules.

    Modules that only hold others are copied: a pass may take something out of them.
    """
    memo: dict[int, Any] = {}
    for module in gm.modules():
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None:
                memo[id(tensor)] = tensor
        for value in vars(module).values():
            if isinstance(value, torch.Tensor):
                memo[id(value)] = value
    for graph_module in graph_modules(gm):
        for node in graph_module.graph.nodes:
            if node.op == "call_module":
                called = graph_module.get_submodule(str(node.target))
                if not any(isinstance(m, fx.GraphModule) for m in called.modules()):
                    memo[id(called)] = called
    return copy.deepcopy(gm, memo)


def count_nodes(gm: fx.GraphModule) -> int:
    return sum(len(m.graph.nodes) for m in graph_modules(gm))


def attribute_bytes(gm: fx.GraphModule) -> int:
    """Bytes of memory that the module's parameters, buffers and constants hold."""
    spans: set[tuple[str, int, int]] = set()  # a stack may be another storage over the same memory
    for module in gm.modules():
        tables = (module._parameters, module._buffers, vars(module))
        for value in [v for table in tables for v in table.values()]:
            if isinstance(value, torch.Tensor) and value.layout == torch.strided:
                storage = value.untyped_storage()
                is_real = type(value) in (torch.Tensor, torch.nn.Parameter) and not value.is_meta
                start = storage.data_ptr() if is_real else storage._cdata
                spans.add((str(value.device), start, start + storage.nbytes()))
    total, reached = 0, ("", 0)
    for device, start, end in sorted(spans):
        known = reached[1] if reached[0] == device else 0
        total += max(end - max(start, known), 0)
        reached = device, max(end, known)
    return total
