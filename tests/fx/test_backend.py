"""torch.compile(backend="rocmforge"): the same results, weights once in memory, caches in place."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch._functorch.aot_autograd import make_boxed_func

from rocmforge_torch.fx import MemoryPlan, backend
from rocmforge_torch.nn import QuantLinear
from tests.fx.poison import PoisoningInterpreter

ops = torch.ops.rocmforge
Q4_0 = 2
PLAIN = {"inductor": False}

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> list[fx.GraphModule]:
    """The optimised graphs of what a test compiles without Inductor."""
    seen: list[fx.GraphModule] = []
    run_passes = backend.run_passes

    def watched(gm: fx.GraphModule, *args: Any) -> None:
        run_passes(gm, *args)
        seen.append(gm)

    monkeypatch.setattr(backend, "run_passes", watched)
    return seen


def compiled(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    return torch.compile(function, backend="rocmforge", fullgraph=True, options=PLAIN | options)


def counts(gm: fx.GraphModule) -> Counter[str]:
    names = (str(n.target) for n in gm.graph.nodes if n.op == "call_function")
    return Counter(name.removesuffix(".default") for name in names if "getitem" not in name)


# Products of fewer than 2^17 multiplications are not merged where their number may change.
HIDDEN, HALF = 512, 256


def linear(rows: int, columns: int = HIDDEN, bias: bool = False) -> QuantLinear:
    qweight = ops.quantize(torch.randn(rows, columns), Q4_0)
    return QuantLinear(qweight, Q4_0, torch.randn(rows) if bias else None)


class Gated(nn.Module):
    """A block with three projections, a norm and a gated feed-forward network."""

    def __init__(self, bias: bool = False) -> None:
        super().__init__()
        self.q, self.k, self.v = (linear(rows, bias=bias) for rows in (HIDDEN, HALF, HALF))
        self.gate, self.up, self.down = linear(HALF), linear(HALF), linear(HIDDEN, HALF)
        self.register_buffer("weight", torch.rand(HIDDEN) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        mixed = self.q(x) + torch.cat([self.k(x), self.v(x)], -1)
        normed = ops.rms_norm(mixed + x, self.weight, 1e-6)
        return self.down(ops.silu_mul(self.gate(normed), self.up(normed))) + mixed


def test_by_name_without_importing_the_package(tmp_path: Any) -> None:
    program = """
import sys, torch
f = torch.compile(lambda x: x.sin() + x.sin(), backend="rocmforge", options={"inductor": False})
x = torch.randn(5)
assert torch.equal(f(x), x.sin() + x.sin())
assert "rocmforge_torch" in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"options": {"levle": 2}}, r"no option is called \['levle'\]; there are \['inductor'"),
        ({"options": {"level": 5}}, "level must be an int from 0 to 4, got 5"),
        ({"options": {"level": 4}}, "Inductor plans the memory .* level 4 needs inductor=False"),
        ({"options": {"level": True}}, "level must be an int from 0 to 4, got True"),
        ({"options": {"inductor": 1}}, "inductor must be a bool, got 1"),
        ({"options": {"disable": "fuse"}}, "disable must hold names of passes, got 'fuse'"),
        ({"options": {"disable": ["fues"]}}, r"no pass is called \['fues'\]; there are \['cse'"),
        ({"mode": "max-autotune"}, "has options, no mode; got mode='max-autotune'"),
    ],
)
def test_bad_options(arguments: dict[str, Any], problem: str) -> None:
    function = torch.compile(torch.sin, backend="rocmforge", **arguments)
    with pytest.raises(Exception, match=problem) as e:
        function(torch.randn(3))
    assert "backend 'rocmforge'" in str(e.value)


def test_inductor_with_a_pass_of_the_user() -> None:
    with (
        torch._inductor.config.patch(post_grad_custom_pre_pass=lambda graph: None),
        pytest.raises(Exception, match="sets Inductor's post_grad_custom_pre_pass"),
    ):
        torch.compile(torch.sin, backend="rocmforge")(torch.randn(3))


def close(got: Tensor, want: Tensor) -> None:
    """Equal but for what is rounded elsewhere: a few units in the last place of the largest."""
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6 * want.abs().max().item())


@torch.inference_mode()
@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("bias", [False, True])
def test_passes_run(graphs: list[fx.GraphModule], bias: bool) -> None:
    module, x = Gated(bias), torch.randn(2, 65, HIDDEN)  # more rows than norms join products for
    want = module(x)
    assert torch.equal(compiled(module, level=2)(x), want)
    assert counts(graphs[0])["rocmforge.quant_matmul"] == 3
    torch._dynamo.reset()
    got = compiled(module)(x)
    found = counts(graphs[1])
    assert found["rocmforge.quant_matmul_gated"] == found["rocmforge.add_rms_norm"] == 1
    assert found["rocmforge.quant_matmul"] == 2
    close(got, want)
    torch._dynamo.reset()
    assert torch.equal(compiled(module, disable=["merge", "fuse"])(x), want)
    assert counts(graphs[2])["rocmforge.quant_matmul"] == 6


@torch.inference_mode()
def test_level_0_runs_nothing(graphs: list[fx.GraphModule]) -> None:
    module, x = Gated(), torch.randn(3, HIDDEN)
    assert torch.equal(compiled(module, level=0)(x), module(x))
    assert counts(graphs[0])["rocmforge.quant_matmul"] == 6


def pieces(module: Gated) -> list[Tensor]:
    return [layer.qweight for layer in (module.q, module.k, module.v)]


def lie_in_one_stack(parts: list[Tensor]) -> bool:
    return all(a.data_ptr() + a.nbytes == b.data_ptr() for a, b in pairwise(parts))


@torch.inference_mode()
def test_merged_weights_are_in_memory_once() -> None:
    module, x = Gated(), torch.randn(3, HIDDEN)
    before = [p.clone() for p in pieces(module)]
    assert not lie_in_one_stack(pieces(module))
    function = compiled(module, level=2)
    function(x)
    parts = pieces(module)
    assert lie_in_one_stack(parts)
    assert all(torch.equal(p, q) for p, q in zip(parts, before, strict=True))
    storage = parts[0].untyped_storage()
    assert storage.nbytes() == sum(p.nbytes for p in parts)
    function(x)
    assert [p.untyped_storage()._cdata for p in pieces(module)] == [storage._cdata] * 3


@torch.inference_mode()
def test_changed_weights_are_seen() -> None:
    module, other, x = Gated(True), Gated(True), torch.randn(3, HIDDEN)
    function = compiled(module, level=2)
    function(x)
    module.load_state_dict(other.state_dict())
    assert torch.equal(function(x), other(x))
    module.q.qweight = linear(HIDDEN).qweight
    assert torch.equal(function(x), module(x))
    module.k.qweight.data = linear(HALF).qweight
    assert torch.equal(function(x), module(x))
    module.v.bias.mul_(2)  # type: ignore[union-attr]
    assert torch.equal(function(x), module(x))
    assert lie_in_one_stack(pieces(module))


@torch.inference_mode()
def test_layers_that_share_compiled_code_keep_their_own_weights() -> None:
    layers, x = [Gated() for _ in range(3)], torch.randn(3, HIDDEN)
    function = compiled(Gated.forward, level=2)
    for _ in range(2):
        for layer in layers:
            assert torch.equal(function(layer, x), layer(x))
    assert all(lie_in_one_stack(pieces(layer)) for layer in layers)


@pytest.mark.usefixtures("exact")
def test_weights_stay_apart_where_gradients_flow(graphs: list[fx.GraphModule]) -> None:
    module, x = Gated(True), torch.randn(3, HIDDEN, requires_grad=True)
    function = compiled(module, level=2)
    (grad,) = torch.autograd.grad(function(x).sum(), x)
    (want,) = torch.autograd.grad(module(x).sum(), x)
    close(grad, want)
    assert not lie_in_one_stack(pieces(module))
    assert counts(graphs[0])["rocmforge.quant_matmul"] == 6


class Step(nn.Module):
    """Writes to a cache and to an accumulator, reads both, writes again."""

    def forward(self, k: Tensor, v: Tensor, total: Tensor, new: Tensor, at: Tensor) -> Tensor:
        for i in range(2):
            ops.kv_cache_write_(k, v, new + i, new - i, at + i)
            ops.accumulate_(total, new[:, 0], at[:1])
        return ops.attention(new[None], k, v, torch.tensor([6], dtype=torch.int32)) + total.sum()


def caches() -> tuple[Tensor, Tensor, Tensor]:
    return torch.randn(1, 16, 2, 8), torch.randn(1, 16, 2, 8), torch.randn(12, 8)


@pytest.mark.parametrize("inference", [False, True])
def test_caches_are_written_in_place(graphs: list[fx.GraphModule], inference: bool) -> None:
    new, at = torch.randn(2, 2, 8), torch.tensor([3, 5])
    ours = caches()
    theirs = [t.clone() for t in ours]
    with torch.inference_mode(inference), torch.no_grad():
        function = compiled(Step())
        for _ in range(2):
            got, want = function(*ours, new, at), Step()(*theirs, new, at)
            assert torch.equal(got, want)
            assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    (gm,) = graphs
    # Nothing but the caches themselves has their size, and nothing is copied to them.
    for node in gm.graph.nodes:
        value = node.meta.get("val")
        if node.op == "call_function" and isinstance(value, Tensor):
            assert value.numel() < 12 * 8, node
    names = " ".join(counts(gm))
    assert "auto_functionalized" not in names
    assert "copy_" not in names
    assert "clone" not in names


def test_a_value_that_is_still_read_is_copied_first() -> None:
    def function(cache: Tensor, new: Tensor, at: Tensor) -> Tensor:
        work = cache * 2
        before = work.view(-1)
        kept = before.clone()
        ops.accumulate_(work, new, at)
        return torch.stack([work.view(-1), kept, before])

    args = torch.randn(6, 4), torch.randn(2, 4), torch.tensor([1])
    with torch.no_grad():
        assert torch.equal(compiled(function)(*args), function(*args))


def _views(x: Tensor) -> tuple[Tensor, ...]:
    y = x * 2
    return x.t(), y, y[1:], x


def _mutates(x: Tensor) -> Tensor:
    x.add_(1)
    x[0].mul_(3)
    return x.sum() + x[0]


def _random(x: Tensor) -> Tensor:
    a, b = torch.rand_like(x), torch.rand_like(x)
    return nn.functional.dropout(x + a - b, 0.5)


def _branches(x: Tensor) -> Tensor:
    return torch.cond(x.sum() > 0, lambda x: x.sin() + x.sin(), lambda x: x.cos(), (x,))


def _depends_on_data(x: Tensor) -> Tensor:
    chosen = x[x > 0]
    return (chosen.sin() + chosen.sin()).view(-1)


@pytest.mark.parametrize("function", [_views, _mutates, _random, _branches, _depends_on_data])
@pytest.mark.parametrize("grad", [False, True])
@pytest.mark.parametrize("level", [2, 4])
def test_ordinary_programs(function: Callable[[Tensor], Any], grad: bool, level: int) -> None:
    x = torch.randn(4, 4)
    outcomes = []
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        for run in (function, compiled(function, level=level)):
            torch.manual_seed(0)
            leaf = x.clone().requires_grad_(grad)
            given = leaf * 1 if grad else leaf
            out = run(given)
            outs = out if isinstance(out, tuple) else (out,)
            grads = torch.autograd.grad(sum(o.sum() for o in outs), leaf) if grad else ()
            outcomes.append([*outs, given, *grads])
    for a, b in zip(*outcomes, strict=True):
        assert torch.equal(a, b)
        assert (a.shape, a.stride(), a.dtype) == (b.shape, b.stride(), b.dtype)


@pytest.mark.usefixtures("exact")
def test_with_inductor() -> None:
    module, x = Gated(), torch.randn(3, HIDDEN)
    step, new, at = Step(), torch.randn(2, 2, 8), torch.tensor([3, 5])
    ours = caches()
    theirs, places = [t.clone() for t in ours], [t.data_ptr() for t in ours]
    with torch.inference_mode():
        got = torch.compile(module, backend="rocmforge", fullgraph=True)(x)
        close(got, module(x))
        assert lie_in_one_stack(pieces(module))
        function = torch.compile(step, backend="rocmforge", fullgraph=True)
        close(function(*ours, new, at), step(*theirs, new, at))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert [t.data_ptr() for t in ours] == places


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> list[MemoryPlan]:
    """Planned graphs run so that what no value covers any more is destroyed -> their plans."""
    plans = []

    def poisoning(forward: Any) -> Any:
        gm = forward.__self__
        plans.append(gm.meta["memory_plan"])
        return make_boxed_func(lambda *args: PoisoningInterpreter(gm).run(*args))

    monkeypatch.setattr(backend, "make_boxed_func", poisoning)
    return plans


def test_a_plan_inside(poisoned: list[MemoryPlan]) -> None:
    """Results of earlier calls stay what they are, other shapes have other plans."""
    module = Gated(True)
    function = compiled(module, level=4, disable=["fuse"])
    inputs = [torch.randn(rows, HIDDEN) for rows in (2, 2, 5, 3, 2)]
    with torch.inference_mode():
        results = [function(x) for x in inputs]
        for x, got in zip(inputs, results, strict=True):
            assert torch.equal(got, module(x))
    known, changing = poisoned
    assert known.planned >= 6
    assert known.arena_bytes < known.intermediate_bytes
    assert changing.planned == 0


def test_a_plan_forward_and_backward(poisoned: list[MemoryPlan]) -> None:
    module, x = Gated(), torch.randn(3, HIDDEN)
    outcomes = []
    for run in (module, compiled(module, level=4, disable=["fuse"])):
        first, second = x.clone().requires_grad_(), x.neg().requires_grad_()
        outs = [run(first), run(second)]
        (outs[0].square().sum() + outs[1].sum()).backward()
        outcomes.append([*outs, first.grad, second.grad])
    for got, want in zip(*outcomes, strict=True):
        assert torch.equal(got, want)
    assert [plan.planned > 3 for plan in poisoned] == [True, True]


def test_a_plan_needs_no_leave_of_gradients() -> None:
    """An input that requires one although nothing that comes out does."""
    x = torch.randn(8, requires_grad=True)
    function = compiled(lambda x: (x.sin().exp().cos() > 0.5).sum(), level=4)
    assert torch.equal(function(x), (x.sin().exp().cos() > 0.5).sum())


@torch.inference_mode()
def test_one_weight_is_not_stacked_on_itself() -> None:
    """Not even where a program computes the same product twice."""
    layer = linear(16).eval()
    step = compiled(lambda x: torch.cat([layer(x), layer(x) * 2], -1))
    x = torch.randn(2, HIDDEN)
    close(step(x), torch.cat([layer(x), layer(x) * 2], -1))
