from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from op_samples.base import FLOATS, RTOL

from rocmforge_torch.ops import reference

ops = torch.ops.rocmforge
RUNNERS = [pytest.param(ops, id="kernel"), pytest.param(reference, id="reference")]


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_rms_norm_is_torchs(run: object, dtype: torch.dtype) -> None:
    x, weight = (10 * torch.randn(5, 7, 96)).to(dtype), torch.randn(96)
    wanted = F.rms_norm(x.double(), (96,), weight.double(), eps=1e-5)
    got = run.rms_norm(x, weight, 1e-5)
    torch.testing.assert_close(got.double(), wanted, rtol=RTOL[dtype], atol=1e-6)


@pytest.mark.parametrize("run", RUNNERS)
def test_rms_norm_survives_large_and_small_rows(run: object) -> None:
    x = torch.tensor([[1e18, -1e18], [1e-18, 2e-18], [3e4, 0.0]])
    wanted = F.rms_norm(x.double(), (2,), eps=1e-6)
    torch.testing.assert_close(run.rms_norm(x, None, 1e-6).double(), wanted, rtol=1e-6, atol=0)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_add_rms_norm_gives_the_norm_of_the_sum_it_returns(run: object, dtype: torch.dtype) -> None:
    x, residual = torch.randn(4, 33).to(dtype), torch.randn(4, 33).to(dtype)
    weight = torch.randn(33)
    normed, total = run.add_rms_norm(x, residual, weight, 1e-6)
    assert torch.equal(total, x + residual)
    wanted = F.rms_norm(total.double(), (33,), weight.double(), eps=1e-6)
    torch.testing.assert_close(normed.double(), wanted, rtol=RTOL[dtype], atol=1e-6)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("width", [1, 33, 640, 4096])
def test_a_norm_of_x_has_the_bits_of_three_ops(run: object, dtype: torch.dtype, width: int) -> None:
    x, residual = (50 * torch.randn(4, width)).to(dtype), torch.randn(4, width).to(dtype)
    for weight_dtype in (dtype, torch.float32):
        weight, x_weight = torch.randn(2, width).to(weight_dtype)
        for outer in (weight, None):
            normed, total = run.add_rms_norm(x, residual, outer, 1e-6, x_weight)
            inner = run.rms_norm(x, x_weight, 1e-6)
            assert torch.equal(total, inner + residual)
            assert torch.equal(normed, run.rms_norm(inner + residual, outer, 1e-6))
    exact = F.rms_norm(x.double(), (width,), x_weight.double(), eps=1e-6) + residual.double()
    torch.testing.assert_close(total.double(), exact, rtol=2 * RTOL[dtype], atol=4 * RTOL[dtype])
