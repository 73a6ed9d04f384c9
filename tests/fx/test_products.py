"""Merged and packed products, fused neighbours: the same numbers from fewer nodes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from rocmforge_torch.fx import annotate, eliminate_dead_code, fuse, merge_products, pack_weights
from rocmforge_torch.quant_types import QUANT_TYPES

ops = torch.ops.rocmforge
Q4_0, Q8_0 = 2, 8


def blocks(rows: int, k: int, qtype: int = Q4_0) -> Tensor:
    return torch.ops.rocmforge.quantize(torch.randn(rows, k), qtype)


def trace(module: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    gm = fx.symbolic_trace(module)
    annotate(gm, inputs)
    return gm


def counts(gm: fx.GraphModule) -> Counter[str]:
    eliminate_dead_code(gm)
    return Counter(
        str(n.target).removeprefix("rocmforge.").removesuffix(".default")
        for n in gm.graph.nodes
        if "rocmforge" in str(n.target)
    )


class Projections(nn.Module):
    """q, k and v of 6, 2 and 2 heads of 8."""

    def __init__(self, biased: bool = False, v_type: int = Q4_0) -> None:
        super().__init__()
        self.v_type = v_type
        for name, rows, qtype in (("q", 48, Q4_0), ("k", 16, Q4_0), ("v", 16, v_type)):
            self.register_buffer(name, blocks(rows, 64, qtype))
            self.register_buffer(f"{name}_bias", torch.randn(rows) if biased else None)

    def forward(self, x: Tensor) -> Tensor:
        q = ops.quant_matmul(x, self.q, Q4_0, self.q_bias)
        k = ops.quant_matmul(x, self.k, Q4_0, self.k_bias)
        v = ops.quant_matmul(x, self.v, self.v_type, self.v_bias)
        q, k, v = (torch.ops.aten.view(t, [2, 3, -1, 8]) for t in (q, k, v))
        return torch.cat([q * 2, k + 1, v.sin()], 2)


@pytest.mark.parametrize("biased", [False, True])
def test_three_projections_are_one_product(biased: bool) -> None:
    module, x = Projections(biased), torch.randn(2, 3, 64)
    gm = trace(module, x)
    assert merge_products(gm).modified
    assert counts(gm) == {"quant_matmul": 1}
    assert torch.equal(gm(x), module(x))
    assert not merge_products(gm).modified
    # The three weights are gone, the stack of them is there.
    shapes = {tuple(b.shape) for b in gm.buffers()}
    assert shapes == {(80, 36), (80,)} if biased else {(80, 36)}


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K", "IQ4_XS"])
def test_packed_projections_are_one_product(name: str) -> None:
    qtype = next(r.id for r in QUANT_TYPES.values() if r.name == name)
    rows, weight = (8, 4, 4), torch.randn(16, 1024)
    whole = ops.quantize(weight, qtype)

    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for number, part in enumerate(whole.split(rows)):
                self.register_buffer(f"w{number}", ops.pack_weight(part, qtype))

        def forward(self, x: Tensor) -> Tensor:
            parts = [
                ops.quant_matmul(x, self.get_buffer(f"w{i}"), qtype, None, 1) for i in range(3)
            ]
            return torch.cat([part * 2 for part in parts], -1)

    module, x = Packed(), torch.randn(2, 1024)
    gm = trace(module, x)
    assert merge_products(gm).modified
    assert counts(gm) == {"quant_matmul": 1}
    (packed,) = gm.buffers()
    assert torch.equal(packed, ops.pack_weight(whole, qtype))
    assert torch.equal(gm(x), module(x))
    assert not pack_weights(gm, ("cpu",)).modified


def test_layouts_stay_apart() -> None:
    class Mixed(Projections):
        def forward(self, x: Tensor) -> Tensor:
            packed = ops.quant_matmul(x, self.k, Q4_0, None, 1)
            return ops.quant_matmul(x, self.v, Q4_0).sin() + packed.sin()

    gm = trace(Mixed(), torch.randn(2, 64))
    assert not merge_products(gm).modified


def test_types_stay_apart() -> None:
    module, x = Projections(v_type=Q8_0), torch.randn(2, 3, 64)
    gm = trace(module, x)
    merge_products(gm)
    assert counts(gm) == {"quant_matmul": 2}
    assert torch.equal(gm(x), module(x))


def test_a_product_that_leaves_the_graph_stays() -> None:
    class Two(Projections):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
            return ops.quant_matmul(x, self.q, Q4_0), ops.quant_matmul(x, self.k, Q4_0)

    gm = trace(Two(), torch.randn(2, 64))
    assert not merge_products(gm).modified


def test_an_input_written_in_between_keeps_products_apart() -> None:
    class Written(Projections):
        def forward(self, x: Tensor) -> Tensor:
            a = ops.quant_matmul(x, self.q, Q4_0).sin()
            x.mul_(2)
            return a + ops.quant_matmul(x, self.q, Q4_0).sin()

    module, x = Written(), torch.randn(2, 64)
    gm = trace(module, x)
    assert not merge_products(gm).modified
    assert torch.equal(gm(x.clone()), module(x.clone()))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K", "Q6_K", "IQ4_XS"])
def test_weights_are_packed_once(name: str) -> None:
    row = next(r for r in QUANT_TYPES.values() if r.name == name)

    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            row_bytes = 512 // row.block_size * row.block_bytes
            self.register_buffer("w", torch.randint(0, 30, (6, row_bytes), dtype=torch.uint8))

        def forward(self, x: Tensor) -> Tensor:
            return ops.quant_matmul(x, self.w, row.id) + ops.quant_matmul(x + 1, self.w, row.id)

    module, x = Two(), torch.randn(3, 512)
    gm = trace(module, x)
    assert not pack_weights(gm).modified  # not on the CPU unless asked
    assert pack_weights(gm, ("cpu",)).modified
    assert counts(gm) == {"quant_matmul": 2}
    (packed,) = gm.buffers()
    assert torch.equal(packed, ops.pack_weight(module.w, row.id))
    assert torch.equal(gm(x), module(x))
    assert not pack_weights(gm, ("cpu",)).modified


def test_a_weight_that_is_looked_up_too_stays_as_the_file_has_it() -> None:
    class Tied(Projections):
        def forward(self, ids: Tensor) -> Tensor:
            x = ops.quant_embedding(ids, self.q, Q4_0, torch.float32)
            return ops.quant_matmul(x, self.q, Q4_0)

    gm = trace(Tied(), torch.tensor([1, 2]))
    assert not pack_weights(gm, ("cpu",)).modified


class Feed(nn.Module):
    """Norm of a sum, gated feed-forward, bias added behind."""

    def __init__(self, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.act = act
        self.register_buffer("gate", blocks(96, 64))
        self.register_buffer("up", blocks(96, 64))
        self.register_buffer("down", blocks(64, 96))
        self.register_buffer("norm", torch.rand(64) + 0.5)
        self.register_buffer("bias", torch.randn(64))

    def forward(self, x: Tensor, residual: Tensor) -> Tensor:
        total = x + residual
        normed = ops.rms_norm(total, self.norm, 1e-6)
        gate, up = (
            ops.quant_matmul(normed, self.gate, Q4_0),
            ops.quant_matmul(normed, self.up, Q4_0),
        )
        inner = self.act(gate) * up
        return total + (ops.quant_matmul(inner, self.down, Q4_0) + self.bias)


def gelu(x: Tensor) -> Tensor:
    return nn.functional.gelu(x, approximate="tanh")


@pytest.mark.parametrize("act", [nn.functional.silu, gelu], ids=["silu", "gelu"])
def test_a_feed_forward_layer(act: Callable[[Tensor], Tensor]) -> None:
    module, x, residual = Feed(act), torch.randn(3, 64), torch.randn(3, 64)
    gm = trace(module, x, residual)
    merge_products(gm)
    annotate(gm, [x, residual])
    fuse(gm)
    assert counts(gm) == {"norm_quant_matmul": 1, "quant_matmul": 1}
    torch.testing.assert_close(gm(x, residual), module(x, residual), atol=1e-4, rtol=1e-4)
    assert [n.target for n in gm.graph.nodes].count(torch.ops.aten.add.Tensor) == 0
    annotate(gm, [x, residual])
    assert not fuse(gm).modified


def exact_gelu(x: Tensor) -> Tensor:
    return nn.functional.gelu(x)


def test_the_other_gelu_is_left_alone() -> None:
    x = torch.randn(3, 64)
    gm = trace(Feed(exact_gelu), x, x)
    fuse(gm)
    assert "gelu_mul" not in counts(gm)


def test_values_that_are_read_elsewhere_keep_their_op() -> None:
    class Read(Feed):
        def forward(self, x: Tensor, residual: Tensor) -> Tensor:
            gate = self.act(x)
            return gate * residual + gate

    x = torch.randn(3, 64)
    gm = trace(Read(nn.functional.silu), x, x)
    assert not fuse(gm).modified


def test_shapes_that_broadcast_are_left_alone() -> None:
    class Broadcast(Feed):
        def forward(self, x: Tensor, residual: Tensor) -> Tensor:
            return ops.rms_norm(x + residual, self.norm, 1e-6) + self.act(x) * residual

    x, residual = torch.randn(3, 64), torch.randn(64)
    gm = trace(Broadcast(nn.functional.silu), x, residual)
    assert not fuse(gm).modified


def test_views_of_views_accept_the_strides_of_a_wider_row() -> None:
    class Chain(Projections):
        def forward(self, x: Tensor) -> Tensor:
            q = ops.quant_matmul(x, self.q, Q4_0).view(2, 3, 6, 8).view(2, 18, 8)
            k = torch.ops.aten.view(ops.quant_matmul(x, self.k, Q4_0), [2, 48])
            return torch.cat([q.flatten(), k.flatten() + 1])

    module, x = Chain(), torch.randn(2, 3, 64)
    gm = trace(module, x)
    assert merge_products(gm).modified
    assert torch.equal(gm(x), module(x))


LOOKS: list[Callable[[fx.Graph, fx.Node], fx.Node]] = [
    lambda g, y: g.call_method("view", (y, torch.int32)),
    lambda g, y: g.call_function(torch.as_strided, (y, (2, 8), (1, 2))),
    lambda g, y: g.call_function(torch.ops.aten.view.dtype, (y, torch.int32)),
    lambda g, y: g.call_method("is_contiguous", (g.call_method("t", (y,)),)),
]


@pytest.mark.parametrize("look", LOOKS)
def test_a_product_whose_strides_are_looked_at_stays(
    look: Callable[[fx.Graph, fx.Node], fx.Node],
) -> None:
    graph, seen = fx.Graph(), []
    x = graph.placeholder("x")
    for name in ("q", "k"):
        product = graph.call_function(ops.quant_matmul, (x, graph.get_attr(name), Q4_0))
        seen.append(graph.call_function(str, (look(graph, product),)))
    graph.output(seen)
    gm = fx.GraphModule(Projections(), graph)
    before = gm(torch.randn(2, 64))
    assert not merge_products(gm).modified
    assert len(before) == 2


def test_a_weight_used_twice_is_stacked_once() -> None:
    class Twice(Projections):
        def forward(self, x: Tensor) -> Tensor:
            for _ in range(2):
                q, k = ops.quant_matmul(x, self.q, Q4_0), ops.quant_matmul(x, self.k, Q4_0)
                x = torch.cat([q.sin(), k.cos()], -1)
            return x

    module, x = Twice(), torch.randn(2, 64)
    gm = trace(module, x)
    assert merge_products(gm).modified
    assert counts(gm) == {"quant_matmul": 2}
    assert [tuple(b.shape) for b in gm.buffers()] == [(64, 36)]
    assert torch.equal(gm(x), module(x))


def test_a_weight_that_is_read_elsewhere_is_not_copied() -> None:
    class Tied(Projections):
        def forward(self, x: Tensor) -> Tensor:
            q, k = ops.quant_matmul(x, self.q, Q4_0), ops.quant_matmul(x, self.k, Q4_0)
            rows = ops.quant_embedding(x.long().abs() % 16, self.k, Q4_0, torch.float32)
            return q.sum() + k.sum() + rows.sum()

    gm = trace(Tied(), torch.randn(2, 64))
    assert not merge_products(gm).modified
