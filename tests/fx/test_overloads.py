"""Ops called by packet become calls of the overload that is meant."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from rocmforge_torch.fx.behaviour import behaviour_of
from rocmforge_torch.fx.overloads import resolve_overloads

ops, aten = torch.ops.rocmforge, torch.ops.aten


def targets(function: object) -> list[object]:
    gm = fx.symbolic_trace(function)
    resolve_overloads(gm)
    gm.graph.lint()
    return [node.target for node in gm.graph.nodes if node.op == "call_function"]


def test_an_op_is_told_from_its_overload_that_writes_to_out() -> None:
    def f(x: Tensor, out: Tensor) -> Tensor:
        y = ops.rms_norm(x, None, 1e-5)
        return ops.rms_norm(y, weight=None, eps=1e-5, out=out)

    assert targets(f) == [ops.rms_norm.default, ops.rms_norm.out]


def test_every_op_without_out_is_the_default() -> None:
    def f(x: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ops.add_rms_norm(x, x, None, eps=1e-5)
        ops.accumulate_(a, b, torch.zeros(1, dtype=torch.int64))
        return ops.silu_mul(a, b), aten.relu(x)

    got = [target for target in targets(f) if isinstance(target, torch._ops.OpOverload)]
    assert got == [
        ops.add_rms_norm.default,
        ops.accumulate_.default,
        ops.silu_mul.default,
        aten.relu.default,
    ]


def test_overloads_that_differ_in_types_stay() -> None:
    assert targets(lambda x: aten.add(x, 1)) == [aten.add]


def test_calls_that_write_to_out_are_known_to() -> None:
    def f(x: Tensor, out: Tensor) -> Tensor:
        ops.rms_norm(x, None, 1e-5, out=out)
        return out

    gm = fx.symbolic_trace(f)
    x, out, call, _ = gm.graph.nodes
    for _ in range(2):
        assert behaviour_of(call).writes == {out}
        assert behaviour_of(call).aliases == {out}
        resolve_overloads(gm)
    assert call.target is ops.rms_norm.out
    assert x not in behaviour_of(call).aliases
