"""Norms become part of the products that read them, and every product's weight is packed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from ops.quant_blocks import named, random_blocks
from torch import Tensor, fx, nn
from torch.fx.experimental.proxy_tensor import make_fx

from rocmforge_torch.fx import optimize, pack_weights
from rocmforge_torch.fx.behaviour import bind

ops = torch.ops.rocmforge
K, EPS = 512, 1e-5


def weight(name: str, rows: int) -> nn.Buffer:
    row = named(name)
    blocks = torch.from_numpy(random_blocks(row, rows * K // row.block_size, largest=0.01))
    return nn.Buffer(blocks.view(rows, -1))


class Layer(nn.Module):
    """Two products of one norm, which stay, and a gated one of another."""

    def __init__(self) -> None:
        super().__init__()
        self.qk, self.v, self.gate_up = weight("Q4_K", 384), weight("Q6_K", 512), weight("Q8_0", 96)
        self.norms = nn.ParameterList(torch.rand(K) + 0.5 for _ in range(3))

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, ...]:
        normed, total = ops.add_rms_norm(x, residual, self.norms[0], EPS, self.norms[2])
        qk = ops.quant_matmul(normed, self.qk, named("Q4_K").id)
        v = ops.quant_matmul(normed, self.v, named("Q6_K").id)
        normed = ops.rms_norm(total + v, self.norms[1], EPS)
        return qk, ops.quant_matmul_gated(normed, self.gate_up, named("Q8_0").id, "silu"), total


def traced(module: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    with torch.no_grad():
        return make_fx(module)(*inputs)


def counts(gm: fx.GraphModule) -> Counter[str]:
    names = [str(n.target).removeprefix("rocmforge.") for n in gm.graph.nodes]
    return Counter(n.removesuffix(".default") for n in names if "norm" in n or "quant" in n)


@pytest.mark.parametrize("rows", [1, 2, 128, 129])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_norms_go_into_products_of_few_rows(rows: int, dtype: torch.dtype) -> None:
    inputs = [torch.randn(rows, 1, K).to(dtype) for _ in range(2)]
    gm = traced(Layer(), *inputs)
    want = gm(*inputs)
    fused = optimize(gm, inputs)
    for a, b in zip(fused(*inputs), want, strict=True):
        assert torch.equal(a, b)
    found = {n: c for n, c in counts(fused).items() if not n.startswith(("norms", "_param"))}
    if rows > 128:
        assert found == {"add_rms_norm": 2, "quant_matmul": 2, "quant_matmul_gated": 1}
    else:
        assert found == {"add_rms_norm": 1, "quant_matmul": 2, "norm_quant_matmul": 1}


def changed(name: str) -> nn.Module:
    """Layers that read a norm in another way, too."""

    class Changed(Layer):
        def forward(self, x: Tensor, residual: Tensor) -> Any:
            normed, total = ops.add_rms_norm(x, residual, self.norms[0], EPS)
            if name == "the sum is read before":
                normed = normed + 0 * total
            if name == "the input is written to in between":
                residual.add_(1)
            if name == "the norm is written to":
                normed.mul_(2)
            product = ops.quant_matmul(normed, self.qk, named("Q4_K").id)
            if name == "the norm is a result":
                return product, normed
            return product, total

    return Changed()


@pytest.mark.parametrize(
    "name",
    [
        "the sum is read before",
        "the input is written to in between",
        "the norm is written to",
        "the norm is a result",
    ],
)
def test_norms_that_stay(name: str) -> None:
    inputs = [torch.randn(1, K) for _ in range(2)]
    gm = traced(changed(name), *inputs)
    want = gm(*map(torch.clone, inputs))
    fused = optimize(gm, inputs)
    assert "norm_quant_matmul" not in counts(fused)
    for a, b in zip(fused(*map(torch.clone, inputs)), want, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("rows", [1, 129])
def test_weights_of_all_products_are_packed(rows: int) -> None:
    inputs = [torch.randn(rows, K) for _ in range(2)]
    gm = optimize(traced(Layer(), *inputs), inputs)
    want = gm(*inputs)
    assert pack_weights(gm, ("cpu",)).modified
    products = [n for n in gm.graph.nodes if "quant_matmul" in str(n.target)]
    assert [bind(n.target._schema, n)["layout"] for n in products] == [1, 1, 1]
    for a, b in zip(gm(*inputs), want, strict=True):
        assert torch.equal(a, b)
    assert not pack_weights(gm, ("cpu",)).modified
