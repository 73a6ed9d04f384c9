"""fx.optimize: all passes together, its report and its switches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, fx

from rocmforge_torch.fx import PASSES, optimize


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.spare = torch.nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.linear(x), self.linear(x)
        torch.sin(self.spare.weight)
        return (a.view(2, 8) + b.t().t()).contiguous()


def test_report() -> None:
    gm = fx.symbolic_trace(Block())
    x = torch.rand(2, 8)
    done = optimize(gm, [x])
    assert torch.equal(done(x), gm(x))
    assert done.linear.weight is gm.linear.weight
    assert [n.op for n in done.graph.nodes] == [
        "placeholder",
        "call_module",
        "call_function",
        "output",
    ]
    report = done.meta["report"]
    assert [p.name for p in report.passes] == [n for n in PASSES if n != "plan"]
    assert sum(p.bytes_saved for p in report.passes) == 4 * 64 * 64
    lines = str(report).splitlines()
    assert len({len(line) for line in lines}) == 1
    assert "16,384" in lines[-1]


def test_unknown_pass() -> None:
    with pytest.raises(ValueError, match=r"no pass is called \['dse'\]"):
        optimize(fx.symbolic_trace(Block()), disable=["dse"])


def test_level_zero_changes_nothing() -> None:
    gm = fx.symbolic_trace(Block())
    assert str(optimize(gm, level=0).graph) == str(gm.graph)
