"""Every pass on random graphs: nothing that a caller can see changes."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch.fx import (
    PASSES,
    annotate,
    cancel_views,
    eliminate_common_subexpressions,
    eliminate_dead_code,
    merge_products,
    optimize,
    pack_weights,
    plan_memory,
    widen_weights,
)
from tests.fx.outcomes import Case, assert_same, close_tensor, run, same_tensor
from tests.fx.poison import PoisoningInterpreter
from tests.fx.random_graphs import cases
from tests.fx.random_traced import traced_cases

Pass = Callable[[fx.GraphModule], PassResult]
ONE_BY_ONE: dict[str, Pass] = {
    "cse": eliminate_common_subexpressions,
    "dce": eliminate_dead_code,
    "views": cancel_views,
    "widen": partial(widen_weights, device_types=("cpu",)),
    "merge": merge_products,
    "pack": partial(pack_weights, device_types=("cpu",)),
    "plan": plan_memory,
}
KINDS = {"built": cases(), "traced": traced_cases()}


def examples(count: int) -> Any:
    """`count` examples in the suite, and as many times more as the profile has more than 100."""
    return settings(
        max_examples=count * settings.default.max_examples // 100,
        suppress_health_check=list(HealthCheck),
    )


def execute(gm: fx.GraphModule, *inputs: Any) -> Any:
    return PoisoningInterpreter(gm).run(*inputs)


def apply(name: str, gm: fx.GraphModule, case: Case) -> bool:
    if PASSES[name][2]:  # it needs shapes
        annotate(gm, case.examples())
    return ONE_BY_ONE[name](gm).modified


def check_pass(name: str, case: Case) -> None:
    want = run(case, case.gm)
    gm = copy.deepcopy(case.gm)
    apply(name, gm, case)
    assert_same(want, run(case, gm))
    if name == "plan":
        assert_same(want, run(case, gm, execute))
    before = str(gm.graph)
    assert not apply(name, gm, case)
    assert str(gm.graph) == before


def check_levels(case: Case, level: int, disable: set[str]) -> None:
    before = str(case.gm.graph)
    want = run(case, case.gm)
    gm = optimize(case.gm, case.examples(), level, disable)
    assert str(case.gm.graph) == before
    assert_same(want, run(case, gm), close_tensor if "fuse" not in disable else same_tensor)


@examples(1600)
@given(case=KINDS["built"], name=st.sampled_from([*ONE_BY_ONE]))
def test_built(case: Case, name: str) -> None:
    check_pass(name, case)


@examples(360)
@given(case=KINDS["traced"], name=st.sampled_from([*ONE_BY_ONE]))
def test_traced(case: Case, name: str) -> None:
    check_pass(name, case)


@examples(250)
@given(
    case=st.one_of(KINDS["built"], KINDS["traced"]),
    level=st.sampled_from([1, 2, 4]),
    disable=st.sets(st.sampled_from([*PASSES])),
)
def test_together(case: Case, level: int, disable: set[str]) -> None:
    """All passes but fusion, and any choice of them."""
    check_levels(case, level, disable | {"fuse"})


@examples(100)
@given(case=st.one_of(KINDS["built"], KINDS["traced"]), level=st.sampled_from([3, 4]))
def test_with_fusion(case: Case, level: int) -> None:
    check_levels(case, level, set())
