"""Merged, packed and fused products, and cancelled views, in graphs inside of graphs."""

from __future__ import annotations

from collections import Counter

import torch
from torch import Tensor, fx, nn

from rocmforge_torch.fx import annotate, cancel_views, fuse, merge_products, optimize, pack_weights

ops = torch.ops.rocmforge
Q4_0 = 2


class Block(nn.Module):
    """Two projections of one input, their gated product, and views that change nothing."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("gate", "up"):
            self.register_buffer(name, ops.quantize(torch.randn(32, 64), Q4_0))

    def forward(self, x: Tensor) -> Tensor:
        x = x.t().t()
        gate, up = (ops.quant_matmul(x, w, Q4_0) for w in (self.gate, self.up))
        return nn.functional.silu(gate) * up


def nested(block: Block, annotated: bool = True) -> tuple[fx.GraphModule, Tensor]:
    """A graph that calls the block's graph, which is called twice and used by name."""
    x = torch.randn(3, 64)
    inner = fx.symbolic_trace(block)
    if annotated:
        annotate(inner, [x])
    graph = fx.Graph()
    x_node = graph.placeholder("x")
    first = graph.call_module("inner", (x_node,))
    second = graph.call_module("inner", (graph.call_function(torch.neg, (x_node,)),))
    graph.output(graph.call_function(torch.add, (first, second)))
    return fx.GraphModule({"inner": inner}, graph), x


def targets(gm: fx.GraphModule) -> Counter[str]:
    return Counter(str(getattr(n.target, "__name__", n.target)) for n in gm.inner.graph.nodes)


def test_products_are_merged_and_fused_inside() -> None:
    block = Block()
    gm, x = nested(block)
    wanted = gm(x)
    assert merge_products(gm).modified
    assert targets(gm)["quant_matmul.default"] == 1
    assert torch.equal(gm(x), wanted)
    annotate(gm.inner, [x])
    assert fuse(gm).modified
    assert targets(gm)["quant_matmul_gated.default"] == 1
    torch.testing.assert_close(gm(x), wanted, rtol=1e-4, atol=1e-4)
    assert not merge_products(gm).modified


def test_views_cancel_inside() -> None:
    gm, x = nested(Block())
    wanted = gm(x)
    assert cancel_views(gm).modified
    assert targets(gm)["t"] == 1  # without a reader
    assert torch.equal(gm(x), wanted)


def test_graphs_without_annotations_stay() -> None:
    gm, _ = nested(Block(), annotated=False)
    assert not cancel_views(gm).modified
    assert not fuse(gm).modified


def test_weights_are_packed_inside() -> None:
    gm, x = nested(Block())
    wanted = gm(x)
    assert pack_weights(gm, ("cpu",)).modified
    assert torch.equal(gm(x), wanted)
    layouts = [n.args[4] for n in gm.inner.graph.nodes if "quant_matmul" in str(n.target)]
    assert layouts == [1, 1]
    assert not pack_weights(gm, ("cpu",)).modified


def test_a_weight_that_another_graph_looks_up_stays() -> None:
    block = Block()
    gm, x = nested(block)
    gm.register_buffer("table", block.gate)
    with gm.graph.inserting_before(next(n for n in gm.graph.nodes if n.op == "call_module")):
        table = gm.graph.get_attr("table")
        ids = gm.graph.call_function(torch.zeros, (1,), {"dtype": torch.int64})
        row = gm.graph.call_function(ops.quant_embedding.default, (ids, table, Q4_0, torch.float32))
    output = next(n for n in gm.graph.nodes if n.op == "output")
    total = output.args[0]
    with gm.graph.inserting_before(output):
        sum_ = gm.graph.call_function(torch.add, (total, gm.graph.call_function(torch.sum, (row,))))
    output.args = (sum_,)
    gm.recompile()
    wanted = gm(x)
    assert pack_weights(gm, ("cpu",)).modified
    layouts = [n.args[4:] for n in gm.inner.graph.nodes if "quant_matmul" in str(n.target)]
    assert layouts == [(), (1,)]
    assert torch.equal(gm(x), wanted)


def test_the_whole_pipeline() -> None:
    gm, x = nested(Block())
    wanted = gm(x)
    done = optimize(gm, [x])
    torch.testing.assert_close(done(x), wanted, rtol=1e-4, atol=1e-4)
    assert targets(done)["quant_matmul.default"] < 2
