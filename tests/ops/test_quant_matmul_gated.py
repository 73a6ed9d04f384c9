"""`quant_matmul_gated` on the CPU: against float64, and against the ops that it stands for."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import rocmforge_torch
from rocmforge_torch.ops.reference import pack_weight, quant_ops
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.quant_blocks import named, random_blocks

ops = torch.ops.rocmforge
ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
by_name = pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
by_act = pytest.mark.parametrize("act", ["silu", "gelu"])
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROUNDING = {torch.float32: 0.0, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
EXACT, FAST = 1e-10, 4e-4  # NMSE: the gate's and the up product's errors come together
SMALL = 1 << 17  # products of fewer multiplications are in float either way
ROWS = (1, 2, 3, 8, 17)


@pytest.fixture(params=[True, False], ids=["exact", "fast"])
def is_exact(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = rocmforge_torch.config.exact
    rocmforge_torch.config.exact = request.param
    yield request.param
    rocmforge_torch.config.exact = before


def make_weights(row: QuantType, f: int, k: int) -> tuple[Tensor, Tensor]:
    """qweight [2f, row_bytes] and its values in float64, about 1 / sqrt(k) on average."""
    qweight = torch.from_numpy(random_blocks(row, 2 * f * k // row.block_size)).view(2 * f, -1)
    return qweight, quant_ops.dequantize(qweight, row.id).double()


def activations(values: Tensor, m: int) -> Tensor:
    """x [m, k] whose products with the values are about 1: where the activation bends."""
    torch.manual_seed(m)
    return torch.randn(m, values.shape[1]) / values.square().sum(-1).mean().sqrt().float()


def formula(x: Tensor, values: Tensor, act: str, bias: Tensor | None = None) -> Tensor:
    gate, up = (x.double() @ values.T + (0 if bias is None else bias.double())).chunk(2, -1)
    inner = functional.silu(gate) if act == "silu" else functional.gelu(gate, approximate="tanh")
    return inner * up


def nmse(got: Tensor, want: Tensor) -> float:
    assert got.shape == want.shape
    return float((got.double() - want).pow(2).sum() / want.pow(2).sum())


def test_derivative_flows_to_x_and_bias_of_either_layout(exact: None) -> None:
    row = named("Q5_0")
    qweight, values = make_weights(row, 9, 96)
    x0, b0 = activations(values, 3), torch.randn(18)
    for act, layout in itertools.product(("silu", "gelu"), (0, 1)):
        x, bias = x0.clone().requires_grad_(), b0.clone().requires_grad_()
        x64, bias64 = x0.double().requires_grad_(), b0.double().requires_grad_()
        weight = pack_weight(qweight, row.id) if layout else qweight
        out = ops.quant_matmul_gated(x, weight, row.id, act, bias, layout)
        want = formula(x64, values, act, bias64)
        grad = torch.randn_like(out)
        got = torch.autograd.grad(out, (x, bias), grad)
        expected = torch.autograd.grad(want, (x64, bias64), grad.double())
        for a, b in zip(got, expected, strict=True):
            assert nmse(a, b) <= EXACT


@by_name
@by_act
def test_every_type_in_both_layouts(row: QuantType, act: str, is_exact: bool) -> None:
    block = max(row.block_size, 32)
    for f, blocks in ((1, 1), (7, 3), (33, 2), (130, 1 + 1024 // block)):
        qweight, values = make_weights(row, f, block * blocks)
        packed = pack_weight(qweight, row.id)
        for m in ROWS:
            x = activations(values, m)
            got = ops.quant_matmul_gated(x, qweight, row.id, act)
            exact = is_exact or not row.is_quantized or m * values.numel() < SMALL
            assert nmse(got, formula(x, values, act)) <= (EXACT if exact else FAST)
            assert torch.equal(ops.quant_matmul_gated(x, packed, row.id, act, None, 1), got)


@by_name
def test_quant_matmul_of_packed_weights_is_that_of_blocks(row: QuantType, is_exact: bool) -> None:
    """Bit for bit, whatever kernel the number of rows chooses."""
    block = max(row.block_size, 32)
    for n, blocks in ((1, 1), (35, 3), (403, 1 + 512 // block)):
        qweight, values = make_weights(row, n, block * blocks)
        packed = pack_weight(qweight, row.id)
        bias = torch.randn(2 * n)
        for m in ROWS:
            x = activations(values, m)
            want = ops.quant_matmul(x, qweight, row.id, bias)
            assert torch.equal(ops.quant_matmul(x, packed, row.id, bias, 1), want)


@by_act
@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "F16", "IQ3_S"])
def test_float32_is_the_product_and_the_activation_bit_for_bit(
    name: str, act: str, is_exact: bool
) -> None:
    row = named(name)
    act_mul = {"silu": ops.silu_mul, "gelu": ops.gelu_mul}[act]
    qweight, values = make_weights(row, 203, 1024)
    bias = torch.randn(406)
    for m in (1, 2, 3, 20):
        x = activations(values, m)
        product = ops.quant_matmul(x, qweight, row.id, bias)
        want = act_mul(*product.chunk(2, -1))
        assert torch.equal(ops.quant_matmul_gated(x, qweight, row.id, act, bias), want)


@by_act
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_dtypes_bias_and_views(dtype: torch.dtype, act: str, is_exact: bool) -> None:
    row = named("Q5_0")
    wide, _ = make_weights(row, 2 * 75, 1024 + 64)
    qweight = wide[::2, : 1024 // 32 * 22]
    values = quant_ops.dequantize(qweight, row.id).double()
    for m in (1, 2, 9):
        x = activations(values, 2 * m).to(dtype).T.contiguous().T[::2]
        for bias in (None, torch.randn(150).to(dtype), torch.randn(300)[::2]):
            got = ops.quant_matmul_gated(x, qweight, row.id, act, bias)
            assert got.dtype == dtype
            assert got.is_contiguous()
            limit = (EXACT if is_exact else FAST) + ROUNDING[dtype] ** 2
            assert nmse(got, formula(x, values, act, bias)) <= limit


def test_half_results_are_the_rounded_float32() -> None:
    """One rounding: gate and up stay float32 until they have met."""
    row = named("Q4_K")
    qweight, values = make_weights(row, 100, 1024)
    for dtype, m in itertools.product((torch.float16, torch.bfloat16), (1, 6)):
        x = activations(values, m).to(dtype)
        want = ops.quant_matmul_gated(x.float(), qweight, row.id, "silu").to(dtype)
        assert torch.equal(ops.quant_matmul_gated(x, qweight, row.id, "silu"), want)


@pytest.mark.parametrize("name", ["Q8_0", "Q6_K"])
def test_results_do_not_depend_on_threads(name: str, is_exact: bool) -> None:
    row = named(name)
    qweight, values = make_weights(row, 403, 1024)
    packed = pack_weight(qweight, row.id)
    threads = torch.get_num_threads()
    for m in (1, 2, 13):
        x = activations(values, m)
        want = ops.quant_matmul_gated(x, qweight, row.id, "silu")
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            assert torch.equal(ops.quant_matmul_gated(x, qweight, row.id, "silu"), want)
            got = ops.quant_matmul_gated(x, packed, row.id, "silu", None, 1)
            assert torch.equal(got, want)
        torch.set_num_threads(threads)


@by_act
def test_large_and_broken_numbers(act: str) -> None:
    """Saturated gates are exact, and a NaN or an infinity of x is never rounded away."""
    row = named("F32")
    qweight = quant_ops.quantize(torch.eye(64), row.id)
    x = torch.full((2, 64), 1.0)
    x[0, :32], x[1, :32] = 200.0, -200.0
    got = ops.quant_matmul_gated(x, qweight, row.id, act)
    assert torch.equal(got[0], torch.full((32,), 200.0))
    assert torch.equal(got[1].abs(), torch.zeros(32))
    for bad in (float("nan"), float("inf")):
        x = torch.ones(1, 64)
        x[0, 3] = bad
        assert not ops.quant_matmul_gated(x, qweight, row.id, act)[0, 3].isfinite()


def test_compiled_it_is_one_op_with_its_name_of_the_activation() -> None:
    row = named("Q4_0")
    qweight, values = make_weights(row, 40, 64)
    x = activations(values, 2)
    graphs: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, inputs: object) -> torch.fx.GraphModule:
        graphs.append(graph)
        return graph

    def front(x: Tensor) -> Tensor:
        return ops.quant_matmul_gated(x, qweight, row.id, "gelu")

    compiled = torch.compile(front, backend=keep, fullgraph=True)
    assert torch.equal(compiled(x), front(x))
    (call,) = [node for node in graphs[0].graph.nodes if node.op == "call_function"]
    assert "quant_matmul_gated" in str(call.target)
    assert "gelu" in call.args
