"""Integers that follow from inputs are computed ahead of everything else."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from rocmforge_torch.fx.counters import counters_first


def test_they_come_first() -> None:
    def step(x: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        y = x.exp()
        slots = length[:, None] + torch.arange(3)
        return y[slots] * 2, y.argmax() + slots

    inputs = torch.randn(9), torch.tensor([1, 4])
    gm = make_fx(step)(*inputs)
    want = gm(*inputs)
    assert counters_first(gm).modified
    gm.graph.lint()
    gm.recompile()
    names = [n.target for n in gm.graph.nodes if n.op == "call_function"]
    aten = torch.ops.aten
    assert names.index(aten.add.Tensor) < names.index(aten.exp.default)
    assert names.index(aten.argmax.default) > names.index(aten.exp.default)
    for got, wanted in zip(gm(*inputs), want, strict=True):
        assert torch.equal(got, wanted)
    assert not counters_first(gm).modified


def test_what_may_have_been_written_to_stays() -> None:
    def step(x: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        length.add_(1)
        return x.exp(), length + 1

    inputs = torch.randn(9), torch.tensor([1, 4])
    gm = make_fx(step)(inputs[0], inputs[1].clone())
    assert not counters_first(gm).modified
