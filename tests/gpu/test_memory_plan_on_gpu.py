"""The memory plan and the allocator under it on a GPU: the same bits, one pool for each stream."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from rocmforge_torch.allocator import TensorAllocator, with_allocator
from rocmforge_torch.allocator.pools import MIN_BLOCK
from rocmforge_torch.fx import optimize

pytestmark = pytest.mark.gpu

ops = torch.ops.rocmforge
Q4_0 = 2


def layer() -> Callable[[Tensor], Tensor]:
    """Norm, gated feed-forward, residual, and a reduction by PyTorch's own ops."""
    numbers = torch.Generator().manual_seed(0)

    def blocks(rows: int, k: int) -> Tensor:
        return ops.quantize(torch.randn(rows, k, generator=numbers), Q4_0).cuda()

    gate, up, down = blocks(512, 256), blocks(512, 256), blocks(256, 512)
    norm = (torch.rand(256, generator=numbers) + 0.5).cuda()

    def forward(x: Tensor) -> Tensor:
        for _ in range(4):
            normed = ops.rms_norm(x, norm, 1e-6)
            inner = ops.silu_mul(
                ops.quant_matmul(normed, gate, Q4_0), ops.quant_matmul(normed, up, Q4_0)
            )
            x = x + ops.quant_matmul(inner, down, Q4_0)
        return torch.softmax(x.float() * 2, -1).sum(0)

    return forward


@pytest.mark.parametrize("rows", [1, 2, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_planned_graph_gives_the_same_bits(rows: int, dtype: torch.dtype) -> None:
    x = torch.randn(rows, 256, device="cuda", dtype=dtype)
    gm = make_fx(layer())(x)
    done = optimize(gm, [x], level=4, disable=["fuse", "merge", "pack"])
    plan = done.meta["memory_plan"]
    assert plan.planned > 0
    assert plan.peak_bytes <= plan.arena_bytes <= plan.intermediate_bytes
    with with_allocator(TensorAllocator()) as allocator:
        for _ in range(20):
            x.normal_()
            assert torch.equal(done(x), gm(x))
        stats = allocator.stats()
    assert (stats.requests, stats.slabs, stats.bytes_live) == (20, 1, 0)


def test_streams_have_pools_of_their_own() -> None:
    allocator = TensorAllocator()
    first, second = torch.cuda.Stream(), torch.cuda.Stream()
    with torch.cuda.stream(first):
        a = allocator.empty((1000,), device="cuda")
        address = a.data_ptr()
        assert address % MIN_BLOCK == 0
        del a
    with torch.cuda.stream(second):
        b = allocator.empty((1000,), device="cuda")
        assert b.data_ptr() != address
    with torch.cuda.stream(first):
        assert allocator.empty((1000,), device="cuda").data_ptr() == address
    del b
    torch.cuda.synchronize()
    allocator.reset()


def test_calls_on_two_streams_do_not_disturb_each_other() -> None:
    x = torch.randn(64, 256, device="cuda")
    gm = make_fx(layer())(x)
    done = optimize(gm, [x], level=4, disable=["fuse", "merge", "pack"])
    inputs = [torch.randn_like(x) for _ in range(8)]
    want = [gm(value) for value in inputs]
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    torch.cuda.synchronize()
    with with_allocator(TensorAllocator()):
        got = []
        for i, value in enumerate(inputs):
            with torch.cuda.stream(streams[i % 2]):
                got.append(done(value))
        torch.cuda.synchronize()
    assert all(map(torch.equal, got, want))
