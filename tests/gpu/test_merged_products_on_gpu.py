"""Packed projections become one product on a GPU, of one type or of two."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx, nn

from rocmforge_torch.fx import optimize
from rocmforge_torch.quant_types import QUANT_TYPES

pytestmark = pytest.mark.gpu
ops = torch.ops.rocmforge
TYPES = {row.name: row.id for row in QUANT_TYPES.values()}
ROWS, K = (256, 128, 128), 1024
PACKED = 1


class Projections(nn.Module):
    """Queries, keys and values of given types, packed."""

    def __init__(self, types: tuple[str, str, str]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.types = [TYPES[name] for name in types]
        for i, (rows, qtype) in enumerate(zip(ROWS, self.types, strict=True)):
            blocks = ops.quantize(torch.randn(rows, K), qtype).cuda()
            self.register_buffer(f"w{i}", ops.pack_weight(blocks, qtype))

    def forward(self, x: Tensor) -> Tensor:
        weights = self.w0, self.w1, self.w2
        parts = [
            ops.quant_matmul(x, weight, qtype, None, PACKED)
            for weight, qtype in zip(weights, self.types, strict=True)
        ]
        return torch.cat([part * 2 for part in parts], -1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("rows", [1, 2, 5, 64, 300])
@pytest.mark.parametrize(
    "types",
    [("Q4_K",) * 3, ("Q6_K",) * 3, ("Q4_0", "Q4_0", "Q8_0"), ("Q5_0",) * 2 + ("Q8_0",),
     ("IQ4_NL", "IQ4_NL", "Q8_0")],
    ids="-".join,
)  # fmt: skip
def test_projections(types: tuple[str, str, str], rows: int, dtype: torch.dtype) -> None:
    module = Projections(types)
    x = torch.randn(rows, K, device="cuda", dtype=dtype)
    gm = optimize(fx.symbolic_trace(module), [x])
    products = gm.graph.find_nodes(op="call_function", target=ops.quant_matmul.default)
    assert len(products) == 1
    got, want = gm(x), module(x)
    if rows <= 2:
        # The kernels differ in nothing but where codes come from; a unit in the last place is room
        # for a sum that the compiler arranges otherwise.
        unit = torch.finfo(dtype).eps * want.abs().max().item()
        torch.testing.assert_close(got, want, rtol=0, atol=2 * unit)
    else:  # other tiles, or another of the vendor's kernels
        error = (got.double() - want.double()).square().mean() / want.double().square().mean()
        assert error < 1e-5
