"""Fused launches on a GPU have the bits of the launches that they stand for."""

from __future__ import annotations

import pytest
import torch
from op_samples.rope_cache import call, projected
from test_glue_ops import captured, on_gpu
from test_rope_cache import composed
from torch import Tensor

from rocmforge_torch.ops.reference.cache_formats import CACHE_FORMATS

pytestmark = pytest.mark.gpu
ops = torch.ops.rocmforge
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16


def same_bits(a: Tensor, b: Tensor) -> bool:
    return torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("name", CACHE_FORMATS)
@pytest.mark.parametrize("norm", [None, F32], ids=str)
def test_rope_kv_cache_write(name: str, dtype: torch.dtype, norm: torch.dtype | None) -> None:
    """Heads of 64 to 256 values, decode and prefill, both orders of pairs, part of a head."""
    for tokens, heads, kv_heads, dim, rotated in (
        (1, 4, 1, 256, 256),
        (3, 32, 8, 128, 64),
        (300, 9, 3, 64, 64),
    ):
        for interleaved in (False, True):
            q, k, v = projected(2, tokens, heads, kv_heads, dim, dtype)
            sample = call(q, k, v, (name, "f16"), rotated, interleaved, norm)
            moved = [[on_gpu(arg) for arg in sample.copy().args] for _ in range(2)]
            ours, theirs = moved
            got = (*ours[:2], ops.rope_kv_cache_write_(*ours))
            sample.args = tuple(theirs)
            assert all(map(same_bits, got, composed(sample)))


@pytest.mark.parametrize("dtype", [F32, F16, BF16], ids=str)
@pytest.mark.parametrize("width", [40, 640, 1024, 4096, 5120, 20008])
def test_add_rms_norm_of_a_normed_x(width: int, dtype: torch.dtype) -> None:
    x, residual = (20 * torch.randn(2, 7, width, device="cuda")).to(dtype)
    for weight_dtype in (dtype, F32):
        weight, x_weight = torch.randn(2, width, device="cuda").to(weight_dtype)
        normed, total = ops.add_rms_norm(x, residual, weight, 1e-6, x_weight)
        wanted = ops.add_rms_norm(ops.rms_norm(x, x_weight, 1e-6), residual, weight, 1e-6)
        assert same_bits(total, wanted[1])
        assert same_bits(normed, wanted[0])


def test_a_captured_graph_sees_new_slots_and_positions() -> None:
    sample = call(*projected(1, 1, 4, 1, 64, F16), ("q8_0", "q8_0"), norm=F32)
    args = [on_gpu(arg) for arg in sample.args]
    outs: list[Tensor] = []

    def step() -> None:
        outs[:] = [ops.rope_kv_cache_write_(*args)]

    graph = captured(step)
    for place in (0, 5, 15):
        args[5].fill_(place)
        args[6].fill_(place)
        for cache in args[:2]:
            cache.zero_()
        graph.replay()
        replayed = [outs[0].clone(), *(cache.clone() for cache in args[:2])]
        for cache in args[:2]:
            cache.zero_()
        again = ops.rope_kv_cache_write_(*args)
        assert all(map(same_bits, replayed, [again, *args[:2]]))


def test_heads_that_are_too_long_are_refused() -> None:
    sample = call(*projected(1, 1, 1, 1, 1032, F16))
    with pytest.raises(
        RuntimeError, match="heads on a GPU must have at most 1024 values, got 1032"
    ):
        ops.rope_kv_cache_write_(*map(on_gpu, sample.args))
