"""Where a fused op would compute something else: graphs that fusion must leave alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from rocmforge_torch.fx import optimize
from tests.fx.outcomes import Case, assert_same, close_tensor, run

ops = torch.ops.rocmforge
Q4_0 = 2
WEIGHT = ops.quantize(torch.randn(64, 32, generator=torch.Generator().manual_seed(0)), Q4_0)


def columns(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    """A fused op returns rows; these are columns, which a view then needs."""
    return (functional.silu(x.t()) * y.t()).t().view(-1)


def gate_written_after_its_activation(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    gate = x + 1
    activated = functional.silu(gate)
    gate.add_(1)
    return activated * y + gate


def x_written_after_its_product(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    x = x + 1
    gate, up = ops.quant_matmul(x, WEIGHT, Q4_0).chunk(2, -1)
    x.mul_(2)
    return ops.silu_mul(gate, up) + x


def x_written_before_the_bias(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    x = x + 1
    product = ops.quant_matmul(x, WEIGHT, Q4_0)
    x.mul_(2)
    return product + torch.cat([w, w]) + x.sum()


def weight_written_before_the_norm(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    total = x + y
    w[:16].mul_(2)
    return ops.rms_norm(total, w, 1e-6) + total


def scaled_sum(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    total = torch.add(x, y, alpha=2)
    return ops.rms_norm(total, None, 1e-6) + total


def in_float64(x: Tensor, y: Tensor, w: Tensor) -> Tensor:
    return functional.silu(x.double()) * y.double()


@pytest.mark.parametrize(
    "function",
    [
        columns,
        gate_written_after_its_activation,
        x_written_after_its_product,
        x_written_before_the_bias,
        weight_written_before_the_norm,
        scaled_sum,
        in_float64,
    ],
)
def test_left_alone(function: Callable[[Tensor, Tensor, Tensor], Tensor]) -> None:
    def outputs(x: Tensor, y: Tensor, w: Tensor) -> tuple[Tensor]:
        return (function(x, y, w),)

    def inputs() -> list[Tensor]:
        return [torch.randn(5, 32), torch.randn(5, 32), torch.randn(32)]

    case = Case(make_fx(outputs)(*inputs()), inputs)
    optimized = optimize(case.gm, inputs())
    assert_same(run(case, case.gm), run(case, optimized), close_tensor)
