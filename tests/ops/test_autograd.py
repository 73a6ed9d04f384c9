"""Derivatives against float64 autograd of the plain formulas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_samples.attention import lengths
from op_samples.quant import weights
from op_samples.rope import frequencies
from test_attention import call, paged
from torch import Tensor

from rocmforge_torch.ops import reference
from rocmforge_torch.quant_types import quant_type

ops = torch.ops.rocmforge
POSITIONS, INV_FREQ = torch.arange(3, 8), frequencies(12)
QWEIGHT, K = weights("Q4_0", 10, 2)
Q4_0 = quant_type("Q4_0").id
WEIGHT = reference.dequantize(QWEIGHT, Q4_0, torch.float64)
SEQ_LENS = lengths(9, 7)
SINKS, SLOPES = torch.tensor([0.5, -0.5]), torch.tensor([0.25, 0.125])


def rotated(x: Tensor, pairs: Callable[[Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    a, b = pairs(x[..., :12])
    angles = (POSITIONS[:, None].float() * INV_FREQ).double()[:, None]
    cos, sin = 1.5 * angles.cos(), 1.5 * angles.sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos, x[..., 12:]], dim=-1)


def attended(q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, slopes: Tensor) -> Tensor:
    """Window 4, soft cap 3, sinks and ALiBi, 2 query heads on 1 key head; q [2, 5, 2, 6]."""
    distance = torch.arange(9) - (SEQ_LENS[:, None] - 5 + torch.arange(5))[..., None]
    visible = (distance <= 0) & (distance > -4)
    scores = torch.einsum("bthd,bsd->bhts", q, k[:, :, 0]) * 6**-0.5
    scores = 3.0 * torch.tanh(scores / 3.0) + slopes[:, None, None] * distance[:, None]
    weights = scores.exp() * visible[:, None]
    total = weights.sum(-1, keepdim=True) + sinks.exp()[:, None, None]
    return torch.einsum("bhts,bsd->bthd", weights / total, v[:, :, 0])


def norm_and_product(
    x: Tensor, weight: Tensor, bias: Tensor, residual: Tensor, x_weight: Tensor
) -> Tensor:
    total = F.rms_norm(x, (K,), x_weight, 1e-5) + residual
    normed = F.rms_norm(total, (K,), weight, 1e-5)
    return torch.cat((normed @ WEIGHT.T + bias, total), -1)


# name -> (inputs that need a gradient, the op on them, the formula on them in float64)
Case = tuple[tuple[Tensor, ...], Callable[..., Any], Callable[..., Any]]
CASES: dict[str, Case] = {
    "rms_norm": (
        (torch.randn(2, 3, 17), torch.randn(17)),
        lambda x, w: ops.rms_norm(x, w, 1e-5),
        lambda x, w: F.rms_norm(x, (17,), w, eps=1e-5),
    ),
    "rms_norm without weight": (
        (torch.randn(2, 17),),
        lambda x: ops.rms_norm(x, None, 1e-5),
        lambda x: F.rms_norm(x, (17,), eps=1e-5),
    ),
    "add_rms_norm": (
        (torch.randn(2, 17), torch.randn(2, 17), torch.randn(17)),
        lambda x, r, w: torch.cat(ops.add_rms_norm(x, r, w, 1e-5)),
        lambda x, r, w: torch.cat([F.rms_norm(x + r, (17,), w, eps=1e-5), x + r]),
    ),
    "add_rms_norm, sum alone": (
        (torch.randn(2, 17), torch.randn(2, 17)),
        lambda x, r: ops.add_rms_norm(x, r, None, 1e-5)[1],
        lambda x, r: x + r,
    ),
    "add_rms_norm of a normed x": (
        (torch.randn(2, 17), torch.randn(2, 17), torch.randn(17), torch.randn(17)),
        lambda x, r, w, xw: torch.cat(ops.add_rms_norm(x, r, w, 1e-5, xw)),
        lambda x, r, w, xw: torch.cat(
            [
                F.rms_norm(F.rms_norm(x, (17,), xw, eps=1e-5) + r, (17,), w, eps=1e-5),
                F.rms_norm(x, (17,), xw, eps=1e-5) + r,
            ]
        ),
    ),
    "add_rms_norm of a normed x, weight of x alone": (
        (torch.randn(2, 17), torch.randn(2, 17), torch.randn(17)),
        lambda x, r, xw: ops.add_rms_norm(x, r, None, 1e-5, xw)[0],
        lambda x, r, xw: F.rms_norm(F.rms_norm(x, (17,), xw, eps=1e-5) + r, (17,), eps=1e-5),
    ),
    "rope halves": (
        (torch.randn(2, 5, 3, 16),),
        lambda x: ops.rope(x, POSITIONS, INV_FREQ, False, 1.5),
        lambda x: rotated(x, lambda head: head.chunk(2, dim=-1)),
    ),
    "silu_mul": (
        (torch.randn(3, 9), torch.randn(3, 9)),
        ops.silu_mul,
        lambda gate, up: F.silu(gate) * up,
    ),
    "gelu_mul": (
        (torch.randn(3, 9), torch.randn(3, 9)),
        ops.gelu_mul,
        lambda gate, up: F.gelu(gate, approximate="tanh") * up,
    ),
    "silu_mul, one computed from the other": (
        (torch.randn(3, 9),),
        lambda x: ops.silu_mul(x, x * x),
        lambda x: F.silu(x) * x * x,
    ),
    "attention": (
        (torch.randn(2, 5, 2, 6), torch.randn(2, 9, 1, 6), torch.randn(2, 9, 1, 4), SINKS, SLOPES),
        lambda q, k, v, sinks, slopes: ops.attention(
            q, k, v, SEQ_LENS, None, None, True, 4, 3.0, sinks, slopes
        ),
        attended,
    ),
    "quant_matmul": (
        (torch.randn(2, 3, K), torch.randn(10)),
        lambda x, bias: ops.quant_matmul(x, QWEIGHT, Q4_0, bias),
        lambda x, bias: x @ WEIGHT.T + bias,
    ),
    "quant_matmul of a vector": (
        (torch.randn(K), torch.randn(10)),
        lambda x, bias: ops.quant_matmul(x, QWEIGHT, Q4_0, bias),
        lambda x, bias: x @ WEIGHT.T + bias,
    ),
    "quant_matmul_gated, silu": (
        (torch.randn(2, 3, K) / 16, torch.randn(10)),
        lambda x, bias: ops.quant_matmul_gated(x, QWEIGHT, Q4_0, "silu", bias),
        lambda x, bias: F.silu(x @ WEIGHT[:5].T + bias[:5]) * (x @ WEIGHT[5:].T + bias[5:]),
    ),
    "quant_matmul_gated, gelu": (
        (torch.randn(K) / 16,),
        lambda x: ops.quant_matmul_gated(x, QWEIGHT, Q4_0, "gelu"),
        lambda x: F.gelu(x @ WEIGHT[:5].T, approximate="tanh") * (x @ WEIGHT[5:].T),
    ),
    "norm_quant_matmul": (
        (
            torch.randn(2, 3, K),
            torch.rand(K) + 0.5,
            torch.randn(10),
            torch.randn(2, 3, K),
            torch.rand(K) + 0.5,
        ),
        lambda x, weight, bias, residual, x_weight: torch.cat(
            ops.norm_quant_matmul(
                x, weight, 1e-5, QWEIGHT, Q4_0, "none", bias, 0, residual, x_weight
            ),
            -1,
        ),
        norm_and_product,
    ),
    "quant_matmul_transposed": (
        (torch.randn(2, 10),),
        lambda g: ops.quant_matmul_transposed(g, QWEIGHT, Q4_0),
        lambda g: g @ WEIGHT,
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_derivatives_are_those_of_the_formula(case: Case, exact: None) -> None:
    inputs, op, formula = case
    ours = [x.clone().requires_grad_() for x in inputs]
    theirs = [x.double().requires_grad_() for x in inputs]
    out, wanted = op(*ours), formula(*theirs)
    torch.testing.assert_close(out.double(), wanted, rtol=1e-4, atol=1e-5)
    grad = torch.randn_like(out)
    out.backward(grad)
    wanted.backward(grad.double())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, rtol=1e-4, atol=1e-5)


def test_derivatives_of_derivatives(exact: None) -> None:
    x, gate = torch.randn(3, K, requires_grad=True), torch.randn(3, 10)

    def penalty(x: Tensor, product: Callable[[Tensor], Tensor], silu_mul: Any) -> Tensor:
        (grad,) = torch.autograd.grad(silu_mul(product(x), gate.to(x)).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)[0]

    got = penalty(x, lambda x: ops.quant_matmul(x, QWEIGHT, Q4_0), ops.silu_mul)
    x64 = x.detach().double().requires_grad_()
    wanted = penalty(x64, lambda x: x @ WEIGHT.T, lambda a, b: F.silu(a) * b)
    torch.testing.assert_close(
        got.double(), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())
    )


@pytest.mark.parametrize("act", ["silu", "gelu"])
def test_derivatives_of_derivatives_of_the_gated_product(act: str, exact: None) -> None:
    inner = {"silu": F.silu, "gelu": lambda x: F.gelu(x, approximate="tanh")}[act]

    def formula(x: Tensor) -> Tensor:
        return inner(x @ WEIGHT[:5].T) * (x @ WEIGHT[5:].T)

    def penalty(x: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        (grad,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
        return torch.autograd.grad(grad.square().sum(), x)[0]

    x = torch.randn(3, K) / 16
    got = penalty(
        x.clone().requires_grad_(), lambda x: ops.quant_matmul_gated(x, QWEIGHT, Q4_0, act)
    )
    wanted = penalty(x.double().requires_grad_(), formula)
    atol = 1e-4 * float(wanted.abs().max())
    torch.testing.assert_close(got.double(), wanted, rtol=1e-3, atol=atol)


def test_gradients_reach_pages() -> None:
    sample = call(3, seq_lens=(20, 5))
    grads = []
    for q, k, v, *rest in (sample.args, paged(sample, 4).args):
        q = q.clone().requires_grad_()
        k, v = (x.nan_to_num().requires_grad_() for x in (k, v))
        ops.attention(q, k, v, *rest).square().sum().backward()
        grads.append((q.grad, k.grad.sum((0, 1)), v.grad.sum((0, 1))))
    for a, b in zip(*grads, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_opcheck_with_gradients(case: Case) -> None:
    inputs, op, _ = case
    calls: list[tuple[Any, tuple[Any, ...]]] = []

    class Record(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            if func.namespace == "rocmforge":
                calls.append((func, args))
            return func(*args, **(kwargs or {}))

    with Record():
        op(*inputs)
    ((func, args),) = calls
    with_grad = tuple(
        a.clone().requires_grad_() if isinstance(a, Tensor) and any(a is i for i in inputs) else a
        for a in args
    )
    torch.library.opcheck(func, with_grad)


@pytest.mark.parametrize("position", range(2))
def test_accumulate_refuses_gradients(position: int) -> None:
    args = [torch.zeros(4, 2), torch.ones(2, 2)]
    args[position].requires_grad_()
    name = ("dst", "src")[position]
    with pytest.raises(RuntimeError, match=f"accumulate_: {name} requires a gradient"):
        ops.accumulate_(*args, torch.tensor(0))
    with torch.no_grad():
        ops.accumulate_(*args, torch.tensor(0))
    assert args[0].sum() == 4


@pytest.mark.parametrize("position", range(4))
def test_kv_cache_write_refuses_gradients(position: int) -> None:
    args = [
        torch.zeros(1, 4, 1, 2),
        torch.zeros(1, 4, 1, 2),
        torch.ones(2, 1, 2),
        torch.ones(2, 1, 2),
    ]
    args[position].requires_grad_()
    name = ("k_cache", "v_cache", "k", "v")[position]
    with pytest.raises(RuntimeError, match=f"kv_cache_write_: {name} requires a gradient"):
        ops.kv_cache_write_(*args, torch.arange(2))
    with torch.no_grad():
        ops.kv_cache_write_(*args, torch.arange(2))
    assert args[0].sum() == 4


def test_choices_and_blocks_have_no_gradient() -> None:
    x = torch.randn(2, 32, requires_grad=True)
    assert not ops.quantize(x, Q4_0).requires_grad
    one = torch.ones(2)
    ids = ops.sample(x, one, one.long(), one, one, one.long(), one.long())
    assert not ids.requires_grad
