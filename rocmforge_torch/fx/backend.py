"""`torch.compile(backend="rocmforge")`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import fx
from torch._decomp import get_decompositions
from torch._dynamo.backends.common import aot_autograd
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition
from torch._inductor import config as inductor_config
from torch._inductor.compile_fx import compile_fx

from rocmforge_torch.fx.counters import counters_first
from rocmforge_torch.fx.cse import eliminate_common_subexpressions
from rocmforge_torch.fx.folding import fold_static_inputs
from rocmforge_torch.fx.graph_pass import GRAPH_PASSES, InductorPass, others_than
from rocmforge_torch.fx.memory_plan import plan_memory
from rocmforge_torch.fx.optimize import check_passes, run_passes
from rocmforge_torch.fx.reinplace import reinplace
from rocmforge_torch.fx.shapes import complete
from rocmforge_torch.fx.static_inputs import Arrange, merge_static_inputs

PLANNED = 4  # the level of the memory plan
# What passes do with weights where these are inputs: the pass, its level, what it is here.
STATIC_INPUTS = (("merge", 2, merge_static_inputs), ("fuse", 3, fold_static_inputs))


@dataclass(frozen=True)
class Options:
    """What `torch.compile(backend="rocmforge", options={...})` takes.

    Attributes:
        inductor: whether Inductor compiles what is left; else the optimised graph runs as it is.
        level: of the passes, as for `fx.optimize`: 0 to 3, without Inductor also 4.
        disable: names of passes to leave out.
    """

    inductor: bool = True
    level: int = 3
    disable: Collection[str] = ()

    @classmethod
    def of(cls, options: Mapping[str, Any] | None) -> Options:
        """Raises ValueError: an option is unknown or has a value that it cannot have."""
        options = options or {}
        names = [field.name for field in fields(cls)]
        unknown = [name for name in options if name not in names]
        if unknown:
            raise ValueError(
                f"backend 'rocmforge': no option is called {unknown}; there are {names}"
            )
        made = cls(**options)
        if not isinstance(made.inductor, bool):
            raise ValueError(f"backend 'rocmforge': inductor must be a bool, got {made.inductor!r}")
        if type(made.level) is not int or not 0 <= made.level <= PLANNED:
            raise ValueError(
                f"backend 'rocmforge': level must be an int from 0 to {PLANNED}, got {made.level!r}"
            )
        if made.inductor and made.level == PLANNED:
            raise ValueError(
                "backend 'rocmforge': Inductor plans the memory of what it compiles itself: "
                "level 4 needs inductor=False"
            )
        if isinstance(made.disable, str):
            raise ValueError(
                f"backend 'rocmforge': disable must hold names of passes, got {made.disable!r}"
            )
        check_passes(made.disable, "backend 'rocmforge'")
        return made


def rocmforge(
    gm: fx.GraphModule,
    example_inputs: Sequence[Any],
    *,
    options: Mapping[str, Any] | None = None,
    mode: str | None = None,
) -> Callable[..., Any]:
    """The backend: passes over the graph that AOTAutograd makes, then Inductor or plain execution.

    Args:
        gm: what Dynamo captured.
        example_inputs: inputs like those to come.
        options: see `Options`.
        mode: none is known.

    Raises:
        ValueError: an option or mode is not known.
    """
    chosen = Options.of(options)
    if mode is not None:
        raise ValueError(f"backend 'rocmforge' has options, no mode; got mode={mode!r}")
    arrangements: list[Arrange] = []
    for name, level, treat in STATIC_INPUTS:
        if not torch.is_grad_enabled() and chosen.level >= level and name not in chosen.disable:
            gm, example_inputs, arrange = treat(gm, example_inputs)
            arrangements += [] if arrange is None else [arrange]
    compiled = (_with_inductor if chosen.inductor else _plain)(gm, example_inputs, chosen)
    if not arrangements:
        return compiled

    def run(*args: Any) -> Any:
        for arrange in arrangements:
            args = (*arrange(args),)
        return compiled(*args)

    return run


def _with_inductor(gm: fx.GraphModule, inputs: Sequence[Any], options: Options) -> Any:
    if options.level == 0:
        return compile_fx(gm, inputs)
    if inductor_config.post_grad_custom_pre_pass is not None:
        raise ValueError(
            "backend 'rocmforge' sets Inductor's post_grad_custom_pre_pass, which "
            "torch._inductor.config has already; use the default backend with a pass that calls "
            "yours and rocmforge_torch.fx.inductor_pass()"
        )
    passes = InductorPass(options.level, options.disable)
    return compile_fx(gm, inputs, config_patches={"post_grad_custom_pre_pass": passes})


def _plain(gm: fx.GraphModule, inputs: Sequence[Any], options: Options) -> Any:
    def compiler(graph: fx.GraphModule, example_inputs: Sequence[Any]) -> Callable[..., Any]:
        if options.level >= 1 and "cse" not in options.disable:
            # Before writes are in the way of telling that two of these are the same.
            eliminate_common_subexpressions(graph)
        counters_first(graph)
        reinplace(graph)
        run_passes(graph, options.level, others_than(GRAPH_PASSES, options.disable), complete)
        if options.level == PLANNED and "plan" not in options.disable:
            complete(graph)
            # Dynamo and AOTAutograd hold inputs to what they were traced with (sizes that may
            # change are symbols), and call graphs without gradients.
            plan_memory(graph, check=False)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(
        fw_compiler=compiler,
        decompositions=get_decompositions([torch.ops.aten.index_copy]),
        partition_fn=min_cut_rematerialization_partition,
        keep_inference_input_mutations=True,
    )
    return backend(gm, inputs)
