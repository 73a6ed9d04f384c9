"""Graphs that a longer random search found a pass to change, shrunk by hand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from rocmforge_torch.fx import annotate, cancel_views, eliminate_dead_code, optimize
from rocmforge_torch.fx.behaviour import behaviour_of
from tests.fx.outcomes import Case, assert_same, run


def written_through_the_view_that_a_write_returned(x: Tensor) -> tuple[Tensor, Tensor]:
    view = x[:, :2]
    same = view.fill_(3)
    same.t_()  # transposes `view` too: it is the same tensor
    return x, x[:, :2].fill_(3).t_()


def resized_by_out(x: Tensor) -> tuple[Tensor, Tensor]:
    small = x.cos()[:1]
    before = small[:]
    torch.sin(x, out=small)  # small becomes as large as x
    return before + 1, small + 1


def resized_intermediate(x: Tensor) -> tuple[Tensor, Tensor]:
    total = x.sum(0)
    other = x.exp()
    torch.sin(x, out=total)
    return other + 1, total + 1


FUNCTIONS: list[Callable[[Tensor], Any]] = [
    written_through_the_view_that_a_write_returned,
    resized_by_out,
    resized_intermediate,
]


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("level", [2, 4])
@pytest.mark.parametrize("mode", ["real", "symbolic"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_nothing_visible_changes(function: Callable[[Tensor], Any], mode: str, level: int) -> None:
    gm = make_fx(function, tracing_mode=mode)(torch.rand(64, 6))
    case = Case(gm, lambda: [torch.rand(64, 6)])
    if mode == "symbolic":
        case.symbolic = [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]
    done = optimize(gm, case.examples(), level, disable=["fuse"])
    assert_same(run(case, gm), run(case, done))


def test_what_only_dead_nodes_kept_alive_goes_at_once() -> None:
    def function(x: Tensor) -> Tensor:
        total = x + 1.0
        torch.where(x > 0, x, total.float())  # might return x or total, for all that is known
        torch.relu_(total)
        return x

    gm = fx.symbolic_trace(function)
    eliminate_dead_code(gm)
    assert [n.op for n in gm.graph.nodes] == ["placeholder", "output"]
    assert not eliminate_dead_code(gm).modified


def test_symbolic_sizes_stay_free() -> None:
    weight = torch.ops.rocmforge.quantize(torch.randn(32, 32), 2)

    def function(x: Tensor) -> Tensor:
        normed = torch.ops.rocmforge.rms_norm(x, None, 1e-6)
        return torch.ops.rocmforge.quant_matmul(normed, weight, 2)

    gm = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(torch.rand(4, 32))
    (example,) = [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]
    assert isinstance(example.shape[0], torch.SymInt)
    optimize(gm, [example], level=4)
    assert isinstance(example.shape[0], torch.SymInt)


def test_annotate_changes_no_fake_example() -> None:
    gm = make_fx(lambda x: x.t_() * 2, tracing_mode="symbolic")(torch.rand(4, 6))
    (example,) = [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]
    shape = tuple(example.shape)
    annotate(gm, [example])
    assert tuple(example.shape) == shape


DROPOUTS: list[tuple[type[torch.nn.Module], int]] = [
    (torch.nn.Dropout, 2),
    (torch.nn.Dropout1d, 3),
    (torch.nn.Dropout2d, 4),
    (torch.nn.Dropout3d, 5),
    (torch.nn.AlphaDropout, 2),
    (torch.nn.FeatureAlphaDropout, 5),
]


@pytest.mark.parametrize(("kind", "dim"), DROPOUTS)
@pytest.mark.parametrize("inplace", [False, True])
def test_dropout_returns_its_input_unless_it_draws(
    kind: type[torch.nn.Module], dim: int, inplace: bool
) -> None:
    gm = fx.symbolic_trace(torch.nn.Sequential(kind(0.5, inplace), kind(0.0, inplace)))
    drawing, quiet = gm.graph.find_nodes(op="call_module")
    x = torch.rand([2, 3, 4, 4, 4][:dim])
    assert gm.get_submodule("1")(x) is x
    assert behaviour_of(quiet).is_functional
    assert behaviour_of(quiet).aliases == {drawing}
    training = behaviour_of(drawing)
    assert training.is_random
    assert bool(training.writes) == inplace
    gm.eval()
    assert gm.get_submodule("0")(x) is x
    assert behaviour_of(drawing).is_functional
    annotate(gm, [x])
    cancel_views(gm)
    assert [n.op for n in gm.graph.nodes] == ["placeholder", "output"]
