from __future__ import annotations

from collections.abc import Callable

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_samples.base import FLOATS

from rocmforge_torch.ops import reference
from rocmforge_torch.ops.reference.cache_formats import (
    CACHE_FORMATS,
    cache_format,
    cache_head_dim,
)
from rocmforge_torch.ops.registry import FALLBACKS

ops = torch.ops.rocmforge
RUNNERS = [pytest.param(ops, id="kernel"), pytest.param(reference, id="reference")]


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("start", [0, 2, 5])
def test_accumulate_adds_to_a_slice(run: object, dtype: torch.dtype, start: int) -> None:
    dst, src = torch.randn(8, 4, 3).to(dtype), torch.randn(3, 4, 3).to(dtype)
    wanted = dst.clone()
    wanted[start : start + 3] += src
    assert run.accumulate_(dst, src, torch.tensor(start)) is None
    assert torch.equal(dst, wanted)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("cache_dtype", FLOATS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_kv_cache_write_stores_and_rounds_like_torch(
    run: object, cache_dtype: torch.dtype, dtype: torch.dtype
) -> None:
    special = torch.tensor([0.0, -0.0, 65504.0, 65520.0, 1e-8, -3e-6, 6e-8, float("inf")])
    k = torch.cat([torch.randn(3, 2, 8), special.expand(1, 2, 8)]).to(dtype)
    v = torch.randn(4, 2, 5).to(dtype)
    k_cache = torch.zeros(3, 4, 2, 8, dtype=cache_dtype)
    v_cache = torch.zeros(3, 4, 2, 5, dtype=cache_dtype)
    run.kv_cache_write_(k_cache, v_cache, k, v, torch.tensor([11, -1, 4, 5]))
    for cache, new in ((k_cache, k), (v_cache, v)):
        wanted = torch.zeros_like(cache)
        wanted[2, 3], wanted[1, 0], wanted[1, 1] = (new[i].to(cache_dtype) for i in (0, 2, 3))
        assert torch.equal(cache, wanted)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_kv_cache_write_touches_the_slots_it_is_given(data: st.DataObject) -> None:
    blocks, size = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5))
    chosen = data.draw(st.lists(st.integers(0, blocks * size - 1), unique=True, max_size=6))
    slots = [-1 if data.draw(st.booleans()) else slot for slot in chosen]
    k = torch.arange(1.0, len(slots) + 1)[:, None, None].expand(-1, 2, 3)
    cache = torch.zeros(blocks, size, 2, 3), torch.zeros(blocks, size, 2, 3)
    ops.kv_cache_write_(*cache, k, -k, torch.tensor(slots, dtype=torch.int64))
    wanted = torch.zeros(blocks * size)
    for i, slot in enumerate(slots):
        if slot >= 0:
            wanted[slot] = i + 1
    for got, sign in zip(cache, (1, -1), strict=True):
        assert torch.equal(got.flatten(0, 1), sign * wanted[:, None, None].expand(-1, 2, 3))


@pytest.mark.parametrize("run", [ops.kv_cache_write_, FALLBACKS["kv_cache_write_"]])
def test_nothing_is_written_when_a_slot_is_outside(run: Callable[..., None]) -> None:
    cache = torch.zeros(2, 4, 1, 2), torch.zeros(2, 4, 1, 2)
    new = torch.ones(3, 1, 2)
    with pytest.raises(RuntimeError, match=r"slots must be less than the 8 places.*got 8"):
        run(*cache, new, new, torch.tensor([0, 1, 8]))
    assert not any(c.any() for c in cache)


FLOAT8 = {"fp8": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


def written(run: object, name: str, x: torch.Tensor) -> torch.Tensor:
    """x [tokens, heads, head_dim] as a cache of the format holds it, token t at position t."""
    entry = CACHE_FORMATS[name]
    shape = (1, *x.shape[:2], entry.row_size(x.shape[2]))
    cache = [torch.empty(shape, dtype=entry.dtype) for _ in range(2)]
    for c in cache:
        c.view(torch.uint8).fill_(0xA5)
    run.kv_cache_write_(*cache, x, x, torch.arange(len(x)))
    assert torch.equal(cache[0].view(torch.uint8), cache[1].view(torch.uint8))
    return cache[0][0]


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("name", FLOAT8)
def test_every_float16_becomes_the_nearest_8_bit_float(run: object, name: str) -> None:
    """By an independent search among the numbers of the format."""
    x = torch.arange(65536, dtype=torch.int32).to(torch.int16).view(torch.float16)
    got = written(run, name, x.view(16, 64, 64)).flatten()
    numbers = torch.arange(128).to(torch.uint8).view(FLOAT8[name]).double()
    finite = numbers[numbers.isfinite()]  # in order
    magnitude = x.double().abs()
    above = torch.searchsorted(finite, magnitude).clamp(max=len(finite) - 1)
    below = (above - 1).clamp(min=0)
    to_low, to_high = magnitude - finite[below], finite[above] - magnitude
    # Codes of neighbours differ by one, so the even one has an even place. 448 is the limit of
    # e4m3; in e5m2 what is half a step above the largest becomes infinite.
    low = (to_low < to_high) | ((to_low == to_high) & (below % 2 == 0))
    want = torch.where(low, finite[below], finite[above])
    if name == "fp8_e5m2":
        want = want.where(magnitude < 57344 + 4096, torch.inf)
    want = torch.copysign(want, x.double()).where(~x.isnan(), torch.nan)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=0, equal_nan=True)
    assert torch.equal(got.double().signbit()[~x.isnan()], x.signbit()[~x.isnan()])


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_8_bit_floats_of_wide_numbers(run: object, dtype: torch.dtype) -> None:
    """Overflow and what rounds to zero, which float16 does not have."""
    x = torch.tensor([1e30, -1e30, 449.0, 464.0, 480.0, 57344.0, 61000.0, 61440.0, 1e-30, 2**-17])
    x = torch.cat([x, torch.tensor([torch.inf, -torch.inf, torch.nan, 3 * 2**-18])]).to(dtype)
    e4m3 = written(run, "fp8", x.view(1, 1, -1)).float().flatten().tolist()
    assert e4m3[:9] == [448.0, -448.0, 448.0, 448.0, 448.0, 448.0, 448.0, 448.0, 0.0]
    assert e4m3[9:12] == [0.0, 448.0, -448.0]
    assert e4m3[12] != e4m3[12]
    e5m2 = written(run, "fp8_e5m2", x.view(1, 1, -1)).float().flatten().tolist()
    inf = float("inf")
    assert e5m2[:6] == [inf, -inf, 448.0, 448.0, 512.0, 57344.0]
    assert e5m2[7:12] == [inf, 0.0, 0.0, inf, -inf]
    assert e5m2[12] != e5m2[12]
    assert e5m2[13] == 2**-16


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("name", ["q8_0", "q4_0"])
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
def test_blocks_are_those_of_gguf_py(run: object, name: str, dtype: torch.dtype) -> None:
    x = (torch.randn(7, 3, 96) * torch.logspace(-6, 4, 7)[:, None, None]).to(dtype)
    x[2, 1] = 0
    kind = gguf.GGMLQuantizationType[name.upper()]
    want = gguf.quants.quantize(x.float().numpy(), kind)
    assert np.array_equal(written(run, name, x).numpy(), want)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_what_is_written_is_read_again(data: st.DataObject) -> None:
    """In any format, shape and dtype: within half a step of the format, the same on both paths."""
    name = data.draw(st.sampled_from(list(CACHE_FORMATS)))
    entry = CACHE_FORMATS[name]
    dim = data.draw(st.integers(1, 4)) * 32 if entry.blocks else data.draw(st.integers(1, 70))
    tokens, heads = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 3))
    dtype = data.draw(st.sampled_from(FLOATS))
    scale = 2.0 ** data.draw(st.integers(-6, 6))
    torch.manual_seed(data.draw(st.integers(0, 99)))
    x = (torch.randn(tokens, heads, dim) * scale).to(dtype)
    stored = written(ops, name, x)
    assert torch.equal(stored.view(torch.uint8), written(reference, name, x).view(torch.uint8))
    assert cache_format(stored, dim) is entry
    assert cache_head_dim(stored, dim) == dim
    error = (entry.decode(stored) - x.float()).abs()
    if entry.blocks is None:
        info = torch.finfo(entry.dtype)
        limit = x.float().abs() * info.eps / 2 + info.smallest_normal * info.eps
        limit = limit + (x.float().abs() - info.max).clamp(min=0)  # e4m3 ends at 448
    else:
        # Half a step; q4_0's top code is short of the largest of the other sign by one step. The
        # scale itself is rounded to float16.
        largest = x.float().unflatten(-1, (-1, 32)).abs().amax(-1, keepdim=True)
        steps = largest / 127 * 0.5 if name == "q8_0" else largest / 8
        limit = (steps + largest * 2**-10).expand(*largest.shape[:-1], 32).flatten(-2)
    assert (error <= limit).all(), f"{name} {float((error - limit).max())}"


@pytest.mark.parametrize("name", CACHE_FORMATS)
def test_attention_reads_what_was_written(name: str) -> None:
    """Attention over a cache of a format is attention over the numbers it holds."""
    entry = CACHE_FORMATS[name]
    k, v = torch.randn(5, 2, 64), torch.randn(5, 2, 96)
    keys, values = (written(ops, name, x)[None] for x in (k, v))
    q = torch.randn(1, 2, 4, 64)
    lengths = torch.tensor([5], dtype=torch.int32)
    got = ops.attention(q, keys, values, lengths)
    plain = ops.attention(q, entry.decode(keys), entry.decode(values), lengths)
    assert got.shape == (1, 2, 4, 96)
    torch.testing.assert_close(got, plain, rtol=1e-6, atol=1e-6)


def test_the_number_of_values_of_a_block_is_found() -> None:
    def cache(size: int) -> torch.Tensor:
        return torch.empty(1, 1, 1, size, dtype=torch.uint8)

    assert cache_head_dim(cache(34), 64) == 32
    assert cache_head_dim(cache(36), 96) == 64
    assert cache_head_dim(cache(306), 544) == 544, "288 values as q8_0 or 544 as q4_0"
    assert cache_head_dim(cache(306), 64) == 288
    with pytest.raises(ValueError, match="35 bytes are no whole number of q8_0 or q4_0 blocks"):
        cache_head_dim(cache(35), 64)
    with pytest.raises(ValueError, match=r"no cache format has torch\.uint8 and 35 for heads"):
        cache_format(cache(35), 32)
