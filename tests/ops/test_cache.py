from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_samples.base import FLOATS

from rocmforge_torch.ops import reference
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
