"""The passes as Inductor's custom graph pass, under the default backend."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._inductor.custom_graph_pass import CustomGraphPass
from torch._inductor.utils import run_and_get_code

from rocmforge_torch.fx import graph_pass, inductor_pass

ops = torch.ops.rocmforge
Q4_0 = 2

pytestmark = [pytest.mark.usefixtures("fresh_dynamo"), pytest.mark.usefixtures("exact")]


class Block(nn.Module):
    """A norm of a sum, and a gated product whose two halves are one matrix."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("gate_up", ops.quantize(torch.randn(64, 64), Q4_0))
        self.register_buffer("weight", torch.rand(64) + 0.5)

    def forward(self, x: Tensor, residual: Tensor) -> tuple[Tensor, Tensor]:
        total = x + residual
        normed = ops.rms_norm(total, self.weight, 1e-6)
        gate, up = ops.quant_matmul(normed, self.gate_up, Q4_0).chunk(2, -1)
        again = ops.rms_norm(total, self.weight, 1e-6)
        return ops.silu_mul(gate, up) + again[:, :32], total


def code_of(module: nn.Module, *inputs: Tensor, **config: Any) -> tuple[Any, str]:
    """What the compiled module returns, and the code that Inductor wrote."""
    torch._dynamo.reset()
    config["force_disable_caches"] = True
    with torch._inductor.config.patch(config):
        result, codes = run_and_get_code(torch.compile(module, fullgraph=True), *inputs)
    return result, "\n".join(codes)


def test_it_fuses_and_the_results_agree() -> None:
    module, x, residual = Block(), torch.randn(3, 64), torch.randn(3, 64)
    want = module(x, residual)
    stock, before = code_of(module, x, residual)
    passes = inductor_pass()
    got, after = code_of(module, x, residual, post_grad_custom_pre_pass=passes)
    fused = ("ops.rocmforge.add_rms_norm", "ops.rocmforge.quant_matmul_gated")
    assert not any(name in before for name in fused)
    assert all(name in after for name in fused)
    assert "ops.rocmforge.silu_mul" not in after
    assert "ops.rocmforge.rms_norm" not in after  # the second norm is the first
    for a, b, c in zip(stock, got, want, strict=True):
        bound = 1e-6 * c.abs().max().item()
        torch.testing.assert_close(a, c, rtol=0, atol=bound)
        torch.testing.assert_close(b, c, rtol=0, atol=bound)
    left_out = inductor_pass(disable=["fuse"])
    _, code = code_of(module, x, residual, post_grad_custom_pre_pass=left_out)
    assert not any(name in code for name in fused)


def test_gradients_agree() -> None:
    module = Block()
    inputs = [torch.randn(3, 64, requires_grad=True) for _ in range(2)]
    want = torch.autograd.grad(sum(out.square().sum() for out in module(*inputs)), inputs)
    passes = inductor_pass()
    result, _ = code_of(module, *inputs, post_grad_custom_pre_pass=passes)
    got = torch.autograd.grad(sum(out.square().sum() for out in result), inputs)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-5 * b.abs().max().item())


def test_the_uuid_depends_on_every_file_of_the_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []

    def remember(paths: tuple[str, ...], extra: str) -> bytes:
        hashed.extend(paths)
        return b""

    monkeypatch.setattr(graph_pass, "get_hash_for_files", remember)
    inductor_pass().uuid()
    names = {Path(path).name for path in hashed}
    assert {"cse.py", "norms.py", "gated.py"} <= names
    folder = Path(graph_pass.__file__).parent
    assert len(hashed) == len([*folder.glob("**/*.py")])


def test_the_uuid_says_what_the_passes_do() -> None:
    passes = inductor_pass()
    assert isinstance(passes, CustomGraphPass)
    others = [inductor_pass(2), inductor_pass(disable=["cse"]), inductor_pass(disable=["fuse"])]
    uuids = [p.uuid() for p in (passes, *others)]
    assert len({pickle.dumps(uuid) for uuid in uuids}) == 4
    assert inductor_pass(3, []).uuid() == uuids[0]
    assert inductor_pass(disable=("fuse",)).uuid() == uuids[3]


def test_an_unknown_pass() -> None:
    with pytest.raises(ValueError, match=r"no pass is called \['fusion'\]; there are \['cse'"):
        inductor_pass(disable=["fusion"])
