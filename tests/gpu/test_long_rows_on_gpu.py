"""Products of a few rows so long that a block has no room for all of them beside its waves: they
come in phases, which two blocks may share, and tiles take one round or several."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME
from tests.gpu.quant_cases import NMSE, weights

pytestmark = pytest.mark.gpu
DEVICE = "cuda"
PACKED = 1
ROWS = (3, 8, 9, 16)
# Of every kind of kernel: with minima, without, with tables of either size.
TYPES = ("Q4_0", "Q8_0", "Q2_K", "Q4_K", "Q6_K", "IQ4_XS", "IQ3_S", "IQ2_XS", "TQ1_0", "NVFP4")
ops = torch.ops.rocmforge


@torch.inference_mode()
@pytest.mark.parametrize("repeats", [1, 20, 80])  # of 256 rows of weights
@pytest.mark.parametrize("k", [14336, 28672])
@pytest.mark.parametrize("name", TYPES)
def test_products(name: str, k: int, repeats: int) -> None:
    row = QUANT_TYPES_BY_NAME[name]
    few, values = weights(row, k, DEVICE)
    qweight = few[:256].repeat(repeats, 1)
    packed = ops.pack_weight(qweight, row.id)
    torch.manual_seed(k)
    x = torch.randn(ROWS[-1], k, device=DEVICE) / values.square().sum(-1).mean().sqrt().float()
    wanted = (x.double() @ values[:256].T).repeat(1, repeats)
    for m in ROWS:
        got = ops.quant_matmul(x[:m], packed, row.id, None, PACKED)
        error = (got.double() - wanted[:m]).square().sum() / wanted[:m].square().sum()
        assert error <= NMSE
        assert torch.equal(got, ops.quant_matmul(x[:m], packed, row.id, None, PACKED))
        assert torch.equal(got, ops.quant_matmul(x[:m], qweight, row.id))
        gate, up = got.chunk(2, -1)
        gated = ops.quant_matmul_gated(x[:m], packed, row.id, "silu", None, PACKED)
        # The same sums in another order.
        torch.testing.assert_close(gated, functional.silu(gate) * up, rtol=1e-4, atol=1e-4)
