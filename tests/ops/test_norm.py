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
