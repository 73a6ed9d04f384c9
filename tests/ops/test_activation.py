from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from rocmforge_torch.ops import reference

ops = torch.ops.rocmforge
RUNNERS = [pytest.param(ops, id="kernel"), pytest.param(reference, id="reference")]


@pytest.mark.parametrize("run", RUNNERS)
def test_silu_mul_is_torchs_in_float64(run: object) -> None:
    gate, up = 5 * torch.randn(3, 700), torch.randn(3, 700)
    wanted = F.silu(gate.double()) * up.double()
    torch.testing.assert_close(run.silu_mul(gate, up).double(), wanted, rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("run", RUNNERS)
def test_gelu_mul_is_torchs_in_float64(run: object) -> None:
    gate, up = 3 * torch.randn(3, 700), torch.randn(3, 700)
    wanted = F.gelu(gate.double(), approximate="tanh") * up.double()
    torch.testing.assert_close(run.gelu_mul(gate, up).double(), wanted, rtol=2e-6, atol=1e-6)


def test_exponential_is_accurate_to_two_units_in_the_last_place() -> None:
    # silu(x) / x is 1 / (1 + e^-x), which for negative x is e^x but for a factor near 1.
    x = torch.linspace(-80, -20, 100_003)
    got = ops.silu_mul(x, torch.ones_like(x)).double()
    wanted = x.double() / (1 + torch.exp(-x.double()))
    ulp = torch.finfo(torch.float32).eps * wanted.abs()
    # exp, the sum, the division and the product each round once.
    assert ((got - wanted).abs() / ulp).max() <= 4


def test_special_values() -> None:
    inf, nan = float("inf"), float("nan")
    gate = torch.tensor([inf, nan, 0.0, -100.0, 100.0])
    for op, oracle in (
        (ops.silu_mul, F.silu),
        (ops.gelu_mul, lambda x: F.gelu(x, approximate="tanh")),
    ):
        got, wanted = op(gate, torch.ones(5)), oracle(gate)
        torch.testing.assert_close(got, wanted, rtol=1e-6, atol=1e-37, equal_nan=True)
