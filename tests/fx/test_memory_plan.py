"""The memory plan: what is planned, the bytes it takes, and calls that cross each other."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from rocmforge_torch.allocator import TensorAllocator, with_allocator
from rocmforge_torch.fx import MemoryPlan, annotate, optimize, plan_memory
from rocmforge_torch.fx.arena import arena
from rocmforge_torch.fx.overloads import out_overload
from tests.fx.poison import PoisoningInterpreter

K = 1024  # bytes of a [16, 16] float tensor


def planned(function: Callable[..., Any], *inputs: Any) -> fx.GraphModule:
    gm = make_fx(function)(*inputs)
    annotate(gm, inputs)
    plan_memory(gm)
    return gm


def plan_of(gm: fx.GraphModule) -> MemoryPlan:
    plan = gm.meta["memory_plan"]
    assert isinstance(plan, MemoryPlan)
    return plan


def chain(x: Tensor) -> Tensor:
    for _ in range(6):
        x = x.sin().exp()
    return x + 1


def test_a_chain_takes_two_buffers() -> None:
    x = torch.randn(16, 16)
    gm = planned(chain, x)
    assert plan_of(gm) == MemoryPlan(12, 1, 12 * K, 2 * K, 2 * K)
    assert torch.equal(gm(x), chain(x))
    assert torch.equal(PoisoningInterpreter(gm).run(x), chain(x))
    assert not plan_memory(gm).modified
    assert plan_of(gm).planned == 12


def test_a_view_keeps_its_buffer() -> None:
    def function(x: Tensor) -> Tensor:
        view = x.sin().t()[2:]
        return (x.cos().exp().sqrt().sum(0) + view).sum(0)

    x = torch.rand(16, 16)
    gm = planned(function, x)
    assert torch.equal(gm(x), function(x))
    # The sine, and two more at a time.
    assert plan_of(gm).peak_bytes == 3 * K


def test_parts_of_a_result_live_on_their_own() -> None:
    def function(x: Tensor) -> Tensor:
        values, indices = x.topk(16)
        a = (indices * 2).float().sin().cos().exp()
        return a + values

    x = torch.rand(16, 16)
    gm = planned(function, x)
    assert torch.equal(gm(x), function(x))
    # `values` (1K) and, at worst, two int64 tensors (2K each).
    assert plan_of(gm).arena_bytes == plan_of(gm).peak_bytes == 5 * K


LEAVING: list[Callable[[Tensor], Any]] = [
    lambda x: x.sin(),
    lambda x: x.sin().t()[1:],
    lambda x: [x.topk(2)[1], 3],
    lambda x: x.sin().add_(1),
    lambda x: torch.rand_like(x),
    lambda x: x.add_(1),
    lambda x: x.sin().t_() * 2,
]


@pytest.mark.parametrize("function", LEAVING)
def test_what_leaves_the_graph_is_not_planned(function: Callable[[Tensor], Any]) -> None:
    gm = planned(function, torch.rand(4, 4))
    assert plan_of(gm).planned == 0
    assert not any(n.target is arena for n in gm.graph.nodes)


def test_symbolic_shapes_are_not_planned() -> None:
    def function(x: Tensor, w: Tensor) -> Tensor:
        return (x.sin() @ w.sin() * 2).sum(0).exp() + 1

    x, w = torch.rand(5, 16), torch.rand(16, 16)
    gm = make_fx(function, tracing_mode="symbolic")(x, w)
    examples = [n.meta["val"] for n in gm.graph.nodes if n.op == "placeholder"]
    done = optimize(gm, [examples[0], torch.rand(16, 16)], level=4, disable=["fuse"])
    # w.sin(), the sum and its exponential have the same shape for every x.
    assert plan_of(done).planned == 3
    for rows in (5, 9):
        x = torch.rand(rows, 16)
        assert torch.equal(done(x, w), gm(x, w))
    with pytest.raises(ValueError, match="input 1"):
        done(x, torch.rand(16, 8))


def test_bytes_are_aligned_for_every_type() -> None:
    def function(x: Tensor) -> Tensor:
        flags = x > 0
        halves, doubles, numbers = x.half(), x.double(), x.argmax(-1)
        return flags * halves.sin() * doubles.sin() + numbers.neg()

    x = torch.randn(3, 3)
    gm = planned(function, x)
    assert plan_of(gm).planned >= 6
    assert torch.equal(gm(x), function(x))
    starts = [n.args[3] for n in gm.graph.nodes if n.target is torch.ops.aten.as_strided.default]
    assert starts
    assert torch.equal(PoisoningInterpreter(gm).run(x), function(x))


def test_ops_of_the_contract_write_to_the_arena_where_they_can() -> None:
    ops = torch.ops.rocmforge
    weight = ops.quantize(torch.randn(32, 32), 2)

    def function(x: Tensor, residual: Tensor) -> Tensor:
        normed, total = ops.add_rms_norm(x, residual, None, 1e-6)
        a, b = ops.quant_matmul(normed, weight, 2), ops.quant_matmul(total, weight, 2)
        return ops.silu_mul(a, b) + ops.gelu_mul(normed, b)

    inputs = torch.randn(3, 32), torch.randn(3, 32)
    gm = planned(function, *inputs)
    assert torch.equal(gm(*inputs), function(*inputs))
    assert torch.equal(PoisoningInterpreter(gm).run(*inputs), function(*inputs))
    assert not any(out_overload(n.target) for n in gm.graph.nodes if "rocmforge" in str(n.target))


def test_the_second_call_takes_no_new_memory() -> None:
    x = torch.randn(16, 16)
    gm = planned(chain, x)
    with with_allocator(TensorAllocator()) as allocator:
        results = [gm(x) for _ in range(5)]
        stats = allocator.stats()
    assert (stats.requests, stats.hits, stats.slabs) == (5, 4, 1)
    assert (stats.bytes_live, stats.bytes_peak) == (0, 2 * K)
    assert all(torch.equal(r, results[0]) for r in results)


def test_inputs_unlike_the_example_are_refused() -> None:
    gm = planned(lambda x, n: x.sin() * n + 1, torch.rand(4, 6), 2)
    assert torch.equal(gm(torch.ones(4, 6), 2), torch.ones(4, 6).sin() * 2 + 1)
    for bad in (torch.rand(4, 5), torch.rand(6, 4).t(), torch.rand(4, 6).double(), 7, None):
        with pytest.raises(ValueError, match=r"for input 0 like float32 \[4, 6\] with strides"):
            gm(bad, 2)
    with pytest.raises(ValueError, match="for input 1 like 2, got 3"):
        gm(torch.rand(4, 6), 3)


def test_sizes_of_one_may_have_any_stride() -> None:
    gm = planned(lambda x: x.sin() * 2, torch.rand(1, 6))
    x = torch.rand(6, 1).t()
    assert torch.equal(gm(x), x.sin() * 2)


def test_gradients_are_refused() -> None:
    x = torch.rand(4, 6)
    gm = planned(lambda x: x.sin() * 2, x)
    with pytest.raises(RuntimeError, match=r"torch\.no_grad"):
        gm(x.clone().requires_grad_())
    with torch.no_grad():
        assert torch.equal(gm(x.clone().requires_grad_()), x.sin() * 2)


def test_gradients_of_weights_are_refused() -> None:
    module = fx.symbolic_trace(torch.nn.Linear(4, 4))
    with torch.no_grad():
        gm = make_fx(lambda x: module(x).sin() * 2)(torch.rand(4, 4))
    gm.weight = torch.nn.Parameter(torch.rand(2))
    annotate(gm, [torch.rand(4, 4)])
    plan_memory(gm)
    with pytest.raises(RuntimeError, match=r"torch\.no_grad"):
        gm(torch.rand(4, 4))


def test_threads_have_an_arena_each() -> None:
    gm = planned(chain, torch.rand(16, 16))
    failures: list[int] = []

    def work(number: int) -> None:
        with with_allocator(allocator):
            for i in range(50):
                x = torch.full((16, 16), number + i / 50)
                if not torch.equal(gm(x), chain(x)):
                    failures.append(number)

    allocator = TensorAllocator()
    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert allocator.stats().requests == 200
    assert allocator.stats().bytes_live == 0


def test_a_planned_graph_inside_another_has_its_own_arena() -> None:
    inner = planned(chain, torch.rand(16, 16))

    class Outer(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor) -> Tensor:
            a = torch.ops.aten.sin.default(x)
            return torch.ops.aten.mul.Tensor(a, self.inner(x)) + self.inner(a)

    class Leaves(fx.Tracer):
        def is_leaf_module(self, m: torch.nn.Module, qualified_name: str) -> bool:
            return True

    x = torch.rand(16, 16)
    outer = Outer()
    want = x.sin() * chain(x) + chain(x.sin())
    gm = fx.GraphModule(outer, Leaves().trace(outer))
    done = optimize(gm, [x], level=4)
    assert torch.equal(done(x), want)
    assert torch.equal(done(x), want)
    # Traced through, the arenas of both calls become part of one graph.
    flat = make_fx(copy.deepcopy(gm))(x)
    assert torch.equal(flat(x), want)
    assert torch.equal(optimize(flat, [x], level=2)(x), want)


def test_report_shows_the_plan() -> None:
    x = torch.rand(16, 16)
    report = optimize(make_fx(chain)(x), [x], level=4).meta["report"]
    assert report.plan.arena_bytes == 2 * K
    assert str(report).splitlines()[-1] == (
        "memory plan: 12 of 13 intermediates, 12,288 bytes in an arena of 2,048 (at least 2,048)"
    )
    assert optimize(make_fx(chain)(x), [x]).meta["report"].plan is None
