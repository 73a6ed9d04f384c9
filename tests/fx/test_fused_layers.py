"""Norms that models write out, post norms, and rotation with its cache write become one op."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from rocmforge_torch.fx import annotate, eliminate_dead_code, fuse, optimize

ops = torch.ops.rocmforge
FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def exported(module: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    return torch.export.export(module, inputs).module()


def in_aten_ops(module: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    return make_fx(module)(*inputs)


def in_torch_functions(module: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    return fx.symbolic_trace(module)


def by_dynamo(module: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    """With its parameters as inputs, as backends get them."""
    found: list[tuple[fx.GraphModule, list[Tensor]]] = []

    def backend(gm: fx.GraphModule, example_inputs: list[Tensor]) -> Callable[..., Any]:
        found.append((gm, example_inputs))
        return gm.forward

    torch._dynamo.reset()
    torch.compile(module, backend=backend)(*inputs)
    ((gm, given),) = found
    gm.meta["given"] = given
    return gm


TRACERS = [exported, in_aten_ops, in_torch_functions, by_dynamo]


def counts(gm: fx.GraphModule) -> Counter[str]:
    """The ops and functions that compute something."""
    eliminate_dead_code(gm)
    names = [str(getattr(n.target, "__name__", n.target)) for n in gm.graph.nodes]
    kinds = ("call_function", "call_method", "call_module")
    return Counter(
        name.removesuffix(".default")
        for name, n in zip(names, gm.graph.nodes, strict=True)
        if n.op in kinds and "guards" not in name and "assert" not in name and name != "getattr"
    )


def half_step(dtype: torch.dtype) -> dict[str, float]:
    """Where a model rounds twice and the op once."""
    return {"rtol": 2 * max(torch.finfo(dtype).eps, 2e-6), "atol": 1e-6}


@pytest.mark.parametrize("tracer", TRACERS, ids=lambda t: t.__name__)
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm, Gemma3RMSNorm])
def test_norms_of_transformers(kind: Any, dtype: torch.dtype, tracer: Callable[..., Any]) -> None:
    module = kind(48, eps=1e-5).to(dtype)
    nn.init.normal_(module.weight)
    x = 3 * torch.randn(2, 5, 48).to(dtype)
    gm = tracer(module, x)
    given = gm.meta.get("given", [x])
    annotate(gm, given)
    assert fuse(gm).modified
    found = counts(gm)
    # Of Gemma's weight, given as an input, what is added to it stays.
    of_weight = {"float", "add", "to"} if kind is Gemma3RMSNorm and tracer is by_dynamo else set()
    assert found.pop("rms_norm") == 1
    assert set(found) <= of_weight, found
    got = gm(*given)
    got = got[0] if isinstance(got, tuple) else got
    assert got.dtype == dtype
    torch.testing.assert_close(got, module(x), **half_step(dtype))
    exact = module.double()(x.double()) if kind is not Gemma3RMSNorm else None
    if exact is not None and tracer is in_aten_ops:
        torch.testing.assert_close(got.double(), exact, **half_step(dtype))


@pytest.mark.parametrize("tracer", [exported, in_torch_functions, by_dynamo])
@pytest.mark.parametrize("eps", [1e-5, None])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("weighted", [True, False])
def test_norms_of_torch(
    dtype: torch.dtype, eps: float | None, weighted: bool, tracer: Callable[..., Any]
) -> None:
    module = nn.Sequential(nn.RMSNorm(48, eps, elementwise_affine=weighted)).to(dtype)
    x = 1e-3 * torch.randn(4, 48).to(dtype)
    gm = tracer(module, x)
    given = gm.meta.get("given", [x])
    annotate(gm, given)
    fuse(gm)
    assert counts(gm) == {"rms_norm": 1}
    assert ops.rms_norm.default in [n.target for n in gm.graph.nodes]
    got = gm(*given)
    got = got[0] if isinstance(got, tuple) else got
    torch.testing.assert_close(got, module(x), **half_step(dtype))


class Written(nn.Module):
    """Norms that look like one and are not, or cannot be replaced."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.weight = nn.Parameter(torch.rand(48))

    def forward(self, x: Tensor) -> Tensor:
        wide = x.float()
        dim = 1 if self.kind == "another dimension" else -1
        power = 4 if self.kind == "another power" else 2
        keep = self.kind != "no kept dimension"
        mean = wide.pow(power).mean(dim, keepdim=keep)
        root = torch.rsqrt(mean + 1e-5 if keep else (mean + 1e-5)[..., None])
        if self.kind == "another input":
            wide = wide + 1
        normed = wide * root
        if self.kind == "written":
            wide.mul_(2)
        return (normed * self.weight).to(x.dtype)


@pytest.mark.parametrize(
    "kind", ["another dimension", "another power", "no kept dimension", "another input"]
)
def test_other_formulas_stay(kind: str) -> None:
    module, x = Written(kind), torch.randn(2, 5, 48)
    gm = fx.symbolic_trace(module)
    annotate(gm, [x.clone()])
    fuse(gm)
    assert "rms_norm" not in counts(gm)
    assert torch.equal(gm(x.clone()), module(x.clone()))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_what_is_written_later_is_normed_before(dtype: torch.dtype) -> None:
    module, x = Written("written"), torch.randn(2, 5, 48).to(dtype)
    gm = fx.symbolic_trace(module)
    annotate(gm, [x.clone()])
    fuse(gm)
    ours, theirs = x.clone(), x.clone()
    torch.testing.assert_close(gm(ours), module(theirs), **half_step(dtype))
    assert torch.equal(ours, theirs)


def test_a_result_of_another_layout_stays() -> None:
    x = torch.randn(2, 5, 48).transpose(0, 1)
    gm = fx.symbolic_trace(Written(""))
    annotate(gm, [x])
    fuse(gm)
    assert "rms_norm" not in counts(gm)


def test_a_weight_that_widens_the_result_stays_outside() -> None:
    class Widening(Written):
        def forward(self, x: Tensor) -> Tensor:
            wide = x.float()
            root = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-5)
            return self.weight * (wide * root).to(x.dtype)

    module, x = Widening(""), torch.randn(3, 48, dtype=torch.bfloat16)
    gm = fx.symbolic_trace(module)
    annotate(gm, [x])
    fuse(gm)
    got = gm(x)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, module(x), rtol=0.02, atol=0.01)


class PostNorm(nn.Module):
    """Gemma's residual stream between two blocks."""

    def __init__(self, eps: tuple[float, float] = (1e-6, 1e-6)) -> None:
        super().__init__()
        self.eps = eps
        self.register_buffer("inner", torch.rand(64) + 0.5)
        self.register_buffer("outer", torch.rand(64) + 0.5)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = residual + ops.rms_norm(x, self.inner, self.eps[0])
        return ops.rms_norm(total, self.outer, self.eps[1]), total


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_a_post_norm_is_part_of_the_sum(dtype: torch.dtype) -> None:
    module = PostNorm()
    x, residual = torch.randn(2, 3, 64).to(dtype)
    gm = fx.symbolic_trace(module)
    annotate(gm, [x, residual])
    fuse(gm)
    assert counts(gm) == {"add_rms_norm": 1, "getitem": 2}
    assert all(map(torch.equal, gm(x, residual), module(x, residual)))


def test_norms_of_two_epsilons_stay_apart() -> None:
    module, (x, residual) = PostNorm((1e-6, 1e-3)), torch.randn(2, 3, 64)
    gm = fx.symbolic_trace(module)
    annotate(gm, [x, residual])
    fuse(gm)
    assert counts(gm) == {"rms_norm": 1, "add_rms_norm": 1, "getitem": 2}
    assert all(map(torch.equal, gm(x, residual), module(x, residual)))


class Layers(nn.Module):
    """Two layers between projections and attention: they share angles, not caches."""

    def __init__(self, normed: bool, kind: str = "") -> None:
        super().__init__()
        self.normed, self.kind = normed, kind
        self.register_buffer("inv_freq", torch.rand(16))
        self.register_buffer("weight", torch.rand(4, 32) + 0.5)

    def forward(
        self, q: Tensor, k: Tensor, v: Tensor, places: Tensor, lengths: Tensor, *caches: Tensor
    ) -> Tensor:
        for layer in range(2):
            k_cache, v_cache = caches[2 * layer : 2 * layer + 2]
            query, key = q, k
            if self.normed:
                query = ops.rms_norm(q, self.weight[layer], 1e-5)
                key = ops.rms_norm(k, self.weight[layer + 2], 1e-5)
            query = ops.rope(query, places, self.inv_freq)
            key = ops.rope(key, places, self.inv_freq, False, 2.0 if "scale" in self.kind else 1.0)
            if self.kind == "read before":
                q = q + query.sum()
            if self.kind == "written between":
                v_cache.mul_(query.sum())
                q.mul_(0.5)
            ops.kv_cache_write_(k_cache, v_cache, key, v, places)
            q = ops.attention(query, k_cache, v_cache, lengths)
            if self.kind == "key is read":
                q = q + key.sum()
        return q


def decode_inputs() -> list[Tensor]:
    torch.manual_seed(0)
    q, k, v = torch.randn(1, 2, 5, 32).split([3, 1, 1], 2)
    caches = [torch.randn(1, 8, 1, 32) for _ in range(4)]
    return [q, k, v, torch.tensor([[3, 4]]), torch.tensor([5], dtype=torch.int32), *caches]


def run(module: nn.Module) -> list[Tensor]:
    inputs = decode_inputs()
    return [module(*inputs), *inputs]


def traced(module: nn.Module) -> fx.GraphModule:
    return make_fx(module)(*decode_inputs())


@pytest.mark.parametrize("normed", [False, True])
def test_rotation_and_cache_write(normed: bool) -> None:
    module = Layers(normed)
    gm = traced(module)
    annotate(gm, decode_inputs())
    assert fuse(gm).modified
    assert counts(gm) == {"rope_kv_cache_write_": 2, "attention": 2}
    assert all(map(torch.equal, run(gm), run(module)))


@pytest.mark.parametrize("kind", ["another scale", "read before", "written between", "key is read"])
def test_rotations_that_must_stay(kind: str) -> None:
    module = Layers(True, kind)
    gm = traced(module)
    annotate(gm, decode_inputs())
    fuse(gm)
    assert "rope_kv_cache_write_" not in counts(gm)
    assert all(map(torch.equal, run(gm), run(module)))


def test_every_pass_together() -> None:
    module = Layers(True)
    gm = optimize(traced(module), decode_inputs())
    assert counts(gm)["rope_kv_cache_write_"] == 2
    assert all(map(torch.equal, run(gm), run(module)))


def test_a_norm_of_half_as_many_rows_is_its_own() -> None:
    """functional.rms_norm over two dimensions is no rms_norm of the last."""
    gm = make_fx(lambda x: functional.layer_norm(x, [3, 48]))(torch.randn(2, 3, 48))
    annotate(gm, [torch.randn(2, 3, 48)])
    assert not fuse(gm).modified
