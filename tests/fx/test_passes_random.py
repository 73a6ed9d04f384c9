"""CSE and DCE on random graphs: nothing that a caller can see changes."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from torch import fx
from torch.fx.passes.infra.pass_base import PassResult

from rocmforge_torch.fx import eliminate_common_subexpressions, eliminate_dead_code
from tests.fx.random_graphs import Case, assert_same, cases, run

PASSES = [eliminate_common_subexpressions, eliminate_dead_code]


@pytest.mark.parametrize("run_pass", PASSES, ids=lambda p: p.__name__)
@settings(max_examples=1000, deadline=None, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_nothing_visible_changes(
    run_pass: Callable[[fx.GraphModule], PassResult], case: Case
) -> None:
    want = run(case, case.gm)
    gm = copy.deepcopy(case.gm)
    run_pass(gm)
    assert_same(want, run(case, gm))
    before = str(gm.graph)
    again = run_pass(gm)
    assert not again.modified
    assert str(gm.graph) == before
