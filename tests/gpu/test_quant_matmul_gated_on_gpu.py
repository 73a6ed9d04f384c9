"""`quant_matmul_gated` on a GPU: against float64, and against the ops that it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import rocmforge_torch
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.gpu.guards import GuardedMemory
from tests.gpu.quant_cases import FEW, weights
from tests.ops.quant_blocks import named
from tests.ops.rounded_activations import rounded_to_8_bits

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
ops = torch.ops.rocmforge
ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROWS = (1, 2, 3, 4, 8, 9, 17, 33, 64, 130)
NMSE = 4e-4  # two products with 1e-4 each, multiplied, one of them through an activation
TIMES = 2.0  # the error of the same steps in float16
STEEPEST = 1.13  # the largest slope of either activation
by_act = pytest.mark.parametrize("act", ["silu", "gelu"])


@pytest.fixture
def memory() -> Iterator[GuardedMemory]:
    with GuardedMemory(DEVICE) as memory:
        yield memory


def gated(product: Tensor, act: str) -> Tensor:
    gate, up = product.chunk(2, -1)
    inner = functional.silu(gate) if act == "silu" else functional.gelu(gate, approximate="tanh")
    return inner * up


def shapes(row: QuantType) -> list[tuple[int, int]]:
    """[f, k] at the edges of waves and tiles."""
    block = max(row.block_size, 32)
    return [(1, block), (17, 3 * block), (64, 512), (100, 1024 + block)]


def problem(row: QuantType, f: int, k: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """x [130, k], qweight [2f, row_bytes] and its values, the gates of about 1."""
    qweight, values = (t[: 2 * f] for t in weights(row, k, DEVICE))
    x = torch.randn(ROWS[-1], k, device=DEVICE) / values.square().sum(-1).mean().sqrt().float()
    return x.to(dtype), qweight, values


def product_bound(x: Tensor, values: Tensor, bias: Tensor | None, few: bool) -> Tensor:
    """How far x . values' + bias may be off, element by element, whatever a kernel rounds.

    Codes of 8 bits are off by half a step of their block of 32; x, weights, sums and the product by
    half a unit in the last place of x's dtype each, or of float16.
    """
    unit = max(torch.finfo(x.dtype).eps, 2.0**-10) / 2
    wide = x.double()
    bound = 4 * unit * wide.abs() @ values.abs().T
    if bias is not None:
        bound = bound + unit * bias.double().abs()
    if few:
        largest = wide.abs().unflatten(-1, (-1, 32)).amax(-1, keepdim=True)
        bound = bound + (largest / 254).expand(-1, -1, 32).flatten(-2) @ values.abs().T
    return bound


def complaint(got: Tensor, x: Tensor, values: Tensor, act: str, bias: Tensor | None) -> str:
    """What is wrong with a result, or nothing."""
    shift = 0 if bias is None else bias.double()
    product = x.double() @ values.T + shift
    want = gated(product, act)
    if got.shape != want.shape or got.dtype != x.dtype or not got.isfinite().all():
        return "shape, dtype or not finite"
    few = len(x) <= FEW and not rocmforge_torch.config.exact
    gate_bound, up_bound = product_bound(x, values, bias, few).chunk(2, -1)
    up = product.chunk(2, -1)[1]
    inner = gated(torch.cat((product.chunk(2, -1)[0], torch.ones_like(up)), -1), act).abs()
    unit = max(torch.finfo(x.dtype).eps, 2.0**-10)
    bound = STEEPEST * gate_bound * (up.abs() + up_bound) + inner * up_bound
    bound = bound + unit * want.abs() + 2 * torch.finfo(x.dtype).tiny
    error = (got.double() - want).abs()
    if not (error <= bound).all():
        return f"{float((error / bound).max()):.2f} times what rounding explains"
    if want.numel() < 500:
        return ""  # too few for a mean
    nmse = float(error.square().sum() / want.square().sum())
    coded = rounded_to_8_bits(x) if few else x.double()
    stored = (coded.half().double() @ values.half().double().T + shift).to(x.dtype).double()
    allowed = (gated(stored, act).to(x.dtype).double() - want).square().sum()
    times = float((error.square().sum() / allowed).sqrt())
    return f"NMSE {nmse:.2e}, {times:.2f} times float16" if nmse > NMSE or times > TIMES else ""


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
@pytest.mark.parametrize("layout", [0, 1], ids=["file", "packed"])
def test_every_type(
    row: QuantType, layout: int, memory: GuardedMemory, count_cases: Callable[[int], None]
) -> None:
    failed = []
    for at, (f, k) in enumerate(shapes(row)):
        torch.manual_seed(at)
        for i, (dtype, act) in enumerate(itertools.product(DTYPES, ("silu", "gelu"))):
            x, qweight, values = problem(row, f, k, dtype)
            blocks = ops.pack_weight(qweight, row.id) if layout else qweight.clone()
            weight = memory.place(blocks, (at + i) % 2)
            shift = torch.randn(2 * f, device=DEVICE).to(dtype if at % 2 else torch.float32)
            for bias in (None, shift):
                for m in ROWS:
                    got = ops.quant_matmul_gated(
                        memory.place(x[:m]), weight, row.id, act, bias, layout
                    )
                    if why := complaint(got, x[:m], values, act, bias):
                        failed.append(f"{m}x{f}x{k} {dtype} {act} bias={bias is not None}: {why}")
            count_cases(2 * len(ROWS))
            failed += memory.faults()
    assert failed == []


@by_act
def test_exact_path_is_float32(act: str, exact: None) -> None:
    for name in ("Q4_0", "Q4_K", "Q6_K", "IQ3_S", "BF16"):
        row = named(name)
        for dtype in DTYPES:
            x, qweight, values = problem(row, 100, 1024, dtype)
            for m in (1, 2, 5, 40):
                got = ops.quant_matmul_gated(x[:m], qweight, row.id, act).double()
                want = gated(x[:m].double() @ values.T, act)
                rounded = want.to(dtype).double()
                error = (got - want).square().sum() - (rounded - want).square().sum()
                assert error <= 1e-10 * want.square().sum()


@by_act
@pytest.mark.parametrize("m", [1, 2, 5, 40])
def test_it_is_the_product_and_the_activation(act: str, m: int) -> None:
    """Of the same rounded activations, whatever kernel computes it."""
    act_mul = {"silu": ops.silu_mul, "gelu": ops.gelu_mul}[act]
    for name in ("Q4_0", "Q8_0", "Q4_K", "Q6_K", "MXFP4", "IQ2_XXS"):
        row = named(name)
        x, qweight, _ = problem(row, 100, 1024, torch.float32)
        gate, up = ops.quant_matmul(x[:m], qweight, row.id).chunk(2, -1)
        want = act_mul(gate, up).double()
        got = ops.quant_matmul_gated(x[:m], qweight, row.id, act).double()
        assert (got - want).square().sum() <= 1e-10 * want.square().sum()


@pytest.mark.parametrize("m", [1, 2, 3, 40])
def test_views_and_leading_dimensions(m: int) -> None:
    row = named("Q4_K")
    x, qweight, _ = problem(row, 100, 1024, torch.float16)
    want = ops.quant_matmul_gated(x[:m].contiguous(), qweight[::2].contiguous(), row.id, "silu")
    columns = x[:m].T.contiguous().T
    assert torch.equal(ops.quant_matmul_gated(columns, qweight[::2], row.id, "silu"), want)
    deep = ops.quant_matmul_gated(x[None, :m, None], qweight[::2], row.id, "silu")
    assert torch.equal(deep, want[None, :, None])
    vector = ops.quant_matmul_gated(x[0], qweight, row.id, "silu")
    assert vector.shape == (100,)
    assert ops.quant_matmul_gated(x[:0], qweight, row.id, "silu").shape == (0, 100)
    assert ops.quant_matmul_gated(x, qweight[:0], row.id, "silu").shape == (len(x), 0)


@pytest.mark.parametrize("m", [1, 2, 5, 40])
def test_a_captured_graph_replays_with_new_numbers(m: int) -> None:
    row = named("Q4_K")
    x, qweight, values = problem(row, 100, 1024, torch.float32)
    x = x[:m].contiguous()
    ops.quant_matmul_gated(x, qweight, row.id, "silu")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.quant_matmul_gated(x, qweight, row.id, "silu")
    for _ in range(3):
        x.mul_(torch.randn_like(x))
        graph.replay()
        assert complaint(out, x, values, "silu", None) == ""


@pytest.mark.parametrize("m", [1, 2, 5, 40])
def test_runs_are_bit_identical(m: int) -> None:
    row = named("Q4_0")
    x, qweight, _ = problem(row, 100, 1024, torch.float16)
    want = ops.quant_matmul_gated(x[:m], qweight, row.id, "gelu")
    runs = [ops.quant_matmul_gated(x[:m], qweight, row.id, "gelu") for _ in range(100)]
    assert all(torch.equal(got, want) for got in runs)


@by_act
def test_derivatives_are_those_of_the_formula(act: str, exact: None) -> None:
    row = named("Q4_0")
    x0, qweight, values = problem(row, 17, 96, torch.float32)
    for weight, layout in ((qweight, 0), (ops.pack_weight(qweight, row.id), 1)):
        x, bias = x0[:3].clone().requires_grad_(), torch.randn(34, device=DEVICE).requires_grad_()
        x64, bias64 = (t.detach().double().requires_grad_() for t in (x, bias))
        out = ops.quant_matmul_gated(x, weight, row.id, act, bias, layout)
        grad = torch.randn_like(out)
        got = torch.autograd.grad(out, (x, bias), grad)
        want = torch.autograd.grad(
            gated(x64 @ values.T + bias64, act), (x64, bias64), grad.double()
        )
        for a, b in zip(got, want, strict=True):
            assert (a - b).square().sum() <= 1e-9 * b.square().sum()
