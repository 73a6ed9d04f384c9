"""norm_quant_matmul on a GPU: against float64, and against the ops that it stands for."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.gpu.guards import GuardedMemory
from tests.gpu.quant_cases import weights
from tests.ops.quant_blocks import named

pytestmark = pytest.mark.gpu
ops = torch.ops.rocmforge
ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
EPS = 1e-5
NMSE = {"none": 1e-4, "silu": 1e-3, "gelu": 1e-3}  # gated: two products, one of them bent


def normed(x: Tensor, weight: Tensor | None) -> Tensor:
    y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPS)
    return y if weight is None else y * weight.double()


def wanted(
    x: Tensor, values: Tensor, act: str, weight: Tensor | None, residual: Tensor | None,
    x_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The result and the total, in float64."""
    total = x.double() if x_weight is None else normed(x.double(), x_weight)
    if residual is not None:
        total = total + residual.double()
    product = normed(total, weight) @ values.T
    if act == "none":
        return product, total
    gate, up = product.chunk(2, -1)
    if act == "silu":
        return torch.nn.functional.silu(gate) * up, total
    return torch.nn.functional.gelu(gate, approximate="tanh") * up, total


def composed(
    x: Tensor, qweight: Tensor, row: QuantType, act: str, layout: int, weight: Tensor | None,
    residual: Tensor | None, x_weight: Tensor | None,
) -> Tensor:  # fmt: skip
    if residual is not None:
        h, _ = ops.add_rms_norm(x, residual, weight, EPS, x_weight)
    else:
        h = ops.rms_norm(x if x_weight is None else ops.rms_norm(x, x_weight, EPS), weight, EPS)
    if act == "none":
        return ops.quant_matmul(h, qweight, row.id, None, layout)
    return ops.quant_matmul_gated(h, qweight, row.id, act, None, layout)


@pytest.mark.parametrize("layout", [0, 1], ids=["file", "packed"])
@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_every_type(row: QuantType, layout: int) -> None:
    k = max(row.block_size, 64) * 9
    forms = itertools.product(("none", "silu", "gelu"), (False, True), (False, True), (1, 2, 3, 40))
    with GuardedMemory("cuda") as memory:
        qweight, values = (t[:130] for t in weights(row, k, "cuda"))
        blocks = ops.pack_weight(qweight, row.id) if layout else qweight.clone()
        for i, (act, adds, norms_x, m) in enumerate(forms):
            torch.manual_seed(i)
            dtype = DTYPES[i % 3]
            scale = float(values.square().sum(-1).mean().sqrt())
            weight = (torch.rand(k, device="cuda") + 0.5) / scale
            x = 3 * torch.randn(m, k, device="cuda").to(dtype)
            residual = torch.randn(m, k, device="cuda").to(dtype) if adds else None
            x_weight = torch.rand(k, device="cuda") + 0.5 if norms_x else None
            given = weight, residual, x_weight
            placed = [None if t is None else memory.place(t) for t in given]
            out, total = ops.norm_quant_matmul(
                memory.place(x), placed[0], EPS, memory.place(blocks), row.id, act, None, layout,
                *placed[1:],
            )  # fmt: skip
            want, want_total = wanted(x, values, act, *given)
            unit = torch.finfo(dtype).eps
            slack = 4 * unit * (4 + want_total.abs())  # what was added is larger than the sum
            assert ((total.double() - want_total).abs() <= slack).all()
            assert out.dtype == dtype
            error = (out.double() - want).square().sum()
            assert error <= NMSE[act] * want.square().sum()
            others = composed(x, blocks, row, act, layout, *given)
            assert error <= 2 * (others.double() - want).square().sum()
        assert memory.faults() == []


@pytest.mark.parametrize("m", [1, 2, 5, 40])
def test_total_is_the_sum_to_the_bit(m: int) -> None:
    row = named("Q4_K")
    qweight, _ = weights(row, 1024, "cuda")
    for dtype in DTYPES:
        x, residual = (torch.randn(m, 1024, device="cuda").to(dtype) for _ in range(2))
        args = (x, None, EPS, qweight, row.id, "none", None, 0)
        assert torch.equal(ops.norm_quant_matmul(*args, residual)[1], x + residual)
        assert torch.equal(ops.norm_quant_matmul(*args)[1], x)


def test_exact_products_of_normed_rows(exact: None) -> None:
    row = named("Q4_K")
    qweight, values = weights(row, 1024, "cuda")
    x, weight = torch.randn(2, 1024, device="cuda"), torch.rand(1024, device="cuda")
    got, _ = ops.norm_quant_matmul(x, weight, EPS, qweight, row.id)
    want, _ = wanted(x, values, "none", weight, None, None)
    assert (got.double() - want).square().sum() <= 1e-10 * want.square().sum()
