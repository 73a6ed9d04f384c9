"""A product with a bias is rounded once, on every path: integers, so that each sum is exact.

Runs on the CPU too, where the same holds.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import rocmforge_torch
from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME

K, N = 256, 48
PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
NARROW = (torch.float16, torch.bfloat16)


def integer_weight(name: str) -> tuple[Tensor, Tensor]:
    """Blocks [N, row_bytes] of integers and their values in float64."""
    values = torch.randint(-32, 33, (N, K))
    if name in PLAIN:
        return values.to(PLAIN[name]).view(torch.uint8).clone(), values.double()
    assert name == "Q8_0"  # a scale in float16, here 1, then 32 codes
    scale = torch.ones(N, K // 32, 1, dtype=torch.float16).view(torch.uint8)
    codes = values.to(torch.int8).view(torch.uint8).view(N, K // 32, 32)
    return torch.cat([scale, codes], -1).view(N, -1), values.double()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("wide_bias", [False, True], ids=["bias like x", "float32 bias"])
@pytest.mark.parametrize("dtype", NARROW, ids=["float16", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "rows"),
    [("F16", 3), ("BF16", 3), ("F32", 3), ("F16", 200), ("BF16", 200), ("Q8_0", 200)],
)
def test_a_product_with_a_bias_is_rounded_once(
    name: str,
    rows: int,
    dtype: torch.dtype,
    wide_bias: bool,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The CPU rounds activations of quantized types; a GPU does not for so many rows.
    monkeypatch.setattr(rocmforge_torch.config, "exact", device == "cpu")
    qweight, values = integer_weight(name)
    x = torch.randint(-32, 33, (rows, K)).double()
    bias = torch.randint(-256, 257, (N,)).double() + (0.375 if wide_bias else 0)
    product = x @ values.T
    wanted = (product + bias).to(dtype)
    twice = (product.to(dtype).double() + bias).to(dtype)
    assert (twice != wanted).float().mean() > 0.05, "rounding twice would not show"
    got = torch.ops.rocmforge.quant_matmul(
        x.to(device, dtype),
        qweight.to(device),
        QUANT_TYPES_BY_NAME[name].id,
        bias.to(device, torch.float32 if wide_bias else dtype),
    )
    assert torch.equal(got.cpu(), wanted)


@pytest.mark.gpu
def test_sums_in_float16_are_allowed_where_torch_is_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Torch has no float32 results of float16 products then; ours are still products."""
    monkeypatch.setattr(torch.backends.cuda.matmul, "allow_fp16_accumulation", True)
    qweight, values = integer_weight("F16")
    x, bias = torch.randint(-2, 3, (200, K)).double() / 64, torch.randn(N).half()
    got = torch.ops.rocmforge.quant_matmul(
        x.half().cuda(), qweight.cuda(), QUANT_TYPES_BY_NAME["F16"].id, bias.cuda()
    )
    wanted = x @ values.T + bias.double()
    torch.testing.assert_close(got.cpu().double(), wanted, rtol=1e-2, atol=0.1)
