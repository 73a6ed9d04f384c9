"""What optimising leaves as it was: the modules of the original, and the state of them all."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from rocmforge_torch.fx import annotate, eliminate_dead_code, optimize
from rocmforge_torch.fx.behaviour import behaviour_of


class Inner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.spare.weight.sin()
        return self.used(x)


class Outer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = Inner()

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


def test_the_original_keeps_what_a_pass_removes() -> None:
    x = torch.rand(2, 4)
    gm = torch.export.export(Outer(), (x,)).module()
    want = gm(x)
    optimized = optimize(gm, [x])
    assert not hasattr(optimized.inner, "spare")
    assert torch.equal(gm(x), want)
    assert torch.equal(optimized(x), want)
    assert optimized.inner.used.weight is gm.inner.used.weight


def test_annotate_counts_no_batch() -> None:
    norm = nn.BatchNorm1d(4)
    gm = fx.symbolic_trace(nn.Sequential(norm))
    before = copy.deepcopy(norm.state_dict())
    annotate(gm, [torch.rand(3, 4)])
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_statistics_are_written() -> None:
    """aten.batch_norm changes them in training, which its schema does not say."""
    norm = nn.BatchNorm1d(4, affine=False)

    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = norm

        def forward(self, x: Tensor) -> Tensor:
            self.norm(x)
            return x + 1

    x = torch.rand(3, 4)
    for training, kept in ((True, 1), (False, 0)):
        gm = torch.export.export(Dead().train(training), (x,)).module()
        eliminate_dead_code(gm)
        assert sum("batch_norm" in str(n.target) for n in gm.graph.nodes) == kept


def test_equal_buffers_of_submodules_stay_two() -> None:
    class Part(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scale", torch.ones(3))

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = Part(), Part()

        def forward(self, x: Tensor) -> Tensor:
            return x * self.a.scale + x * self.b.scale

    gm = fx.symbolic_trace(Two())
    optimized = optimize(gm, level=1)
    gm.b.scale.fill_(5)  # the module of both
    assert torch.equal(optimized(torch.ones(3)), torch.full((3,), 6.0))


def test_an_unsafe_view_is_a_view() -> None:
    gm = make_fx(lambda x: torch.ops.aten._unsafe_view.default(x, [6]) * 2)(torch.rand(2, 3))
    (view,) = (n for n in gm.graph.nodes if "_unsafe_view" in str(n.target))
    assert behaviour_of(view).aliases == frozenset(view.all_input_nodes)


def test_asserts_keep_nothing_apart() -> None:
    def function(x: Tensor) -> Tensor:
        first = x.sin()
        torch.ops.aten._assert_tensor_metadata.default(x, dtype=torch.float32)
        return first + x.sin()

    gm = optimize(make_fx(function)(torch.rand(3)), level=1)
    targets = [str(n.target) for n in gm.graph.nodes]
    assert targets.count("aten.sin.default") == 1
    assert "aten._assert_tensor_metadata.default" in targets
