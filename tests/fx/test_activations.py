"""Activations in the forms that Inductor writes them in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch._inductor.decomposition import select_decomp_table
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn import functional

from rocmforge_torch.fx import optimize

ops = torch.ops.rocmforge


def gelu(x: Tensor) -> Tensor:
    return functional.gelu(x, approximate="tanh")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("act", "fused"), [(functional.silu, ops.silu_mul), (gelu, ops.gelu_mul)], ids=["silu", "gelu"]
)
def test_written_out(act: Any, fused: Any, dtype: torch.dtype) -> None:
    gate, up = torch.randn(2, 3, 64).to(dtype).unbind(0)
    gm = make_fx(lambda a, b: act(a) * b, decomposition_table=select_decomp_table())(gate, up)
    assert len(gm.graph.nodes) > 6
    found = optimize(gm, [gate, up])
    assert len(found.graph.find_nodes(op="call_function", target=fused.default)) == 1
    assert len(found.graph.nodes) == 4
    got, want = found(gate, up).float(), act(gate.float()) * up.float()
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(got, want, rtol=tolerance, atol=tolerance)


def test_another_constant_is_another_function() -> None:
    def near(a: Tensor, b: Tensor) -> Tensor:
        return a / (1.5 + torch.exp(-a)) * b

    gate, up = torch.randn(2, 3, 64).unbind(0)
    found = optimize(make_fx(near)(gate, up), [gate, up])
    assert not found.graph.find_nodes(op="call_function", target=ops.silu_mul.default)
