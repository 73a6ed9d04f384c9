"""`norm_quant_matmul` on the CPU: the bits of the ops that it stands for."""

from __future__ import annotations

import itertools

import pytest
import torch
from quant_blocks import named, random_blocks
from torch import Tensor

from rocmforge_torch.quant_types import QuantType

ops = torch.ops.rocmforge
EPS = 1e-5


def of_ops(
    x: Tensor,
    weight: Tensor | None,
    qweight: Tensor,
    row: QuantType,
    act: str,
    bias: Tensor | None,
    residual: Tensor | None,
    x_weight: Tensor | None,
) -> tuple[Tensor, Tensor]:
    if residual is not None:
        normed, total = ops.add_rms_norm(x, residual, weight, EPS, x_weight)
    else:
        total = x if x_weight is None else ops.rms_norm(x, x_weight, EPS)
        normed = ops.rms_norm(total, weight, EPS)
    if act == "none":
        return ops.quant_matmul(normed, qweight, row.id, bias), total
    return ops.quant_matmul_gated(normed, qweight, row.id, act, bias), total


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "BF16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_it_is_the_ops_to_the_bit(name: str, dtype: torch.dtype) -> None:
    row = named(name)
    n, k = 300, 768
    blocks = torch.from_numpy(random_blocks(row, n * k // row.block_size, largest=0.05))
    qweight = blocks.view(n, -1)
    forms = itertools.product((1, 2, 7), ("none", "silu", "gelu"), *[(False, True)] * 4)
    for m, act, has_weight, has_bias, adds, norms_x in forms:
        x, residual = (torch.randn(m, k).to(dtype) for _ in range(2))
        weight = torch.randn(k).to(dtype) if has_weight else None
        x_weight = torch.randn(k).to(dtype) if norms_x else None
        bias = torch.randn(n) if has_bias else None
        args = (act, bias, 0, residual if adds else None, x_weight)
        got = ops.norm_quant_matmul(x, weight, EPS, qweight, row.id, *args)
        want = of_ops(x, weight, qweight, row, act, bias, args[3], x_weight)
        for a, b in zip(got, want, strict=True):
            assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))
            assert a.data_ptr() != x.data_ptr()
