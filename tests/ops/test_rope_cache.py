"""rope_kv_cache_write_ against the ops that it stands for, and against float64."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_samples.base import FLOATS, RTOL, Sample, permuted, randn, strided
from op_samples.rope_cache import call, projected
from test_rope import oracle
from torch import Tensor

from rocmforge_torch.ops import reference
from rocmforge_torch.ops.reference.cache_formats import CACHE_FORMATS

ops = torch.ops.rocmforge


def composed(sample: Sample) -> tuple[Tensor, ...]:
    """The caches and the rotated queries by the ops themselves, one after the other."""
    k_cache, v_cache, q, k, v, slots, *rotation = sample.args
    norms = rotation[4:]
    if norms:
        q, k = (ops.rms_norm(x, w, norms[2]) for x, w in zip((q, k), norms, strict=False))
    q, k = (ops.rope(x, *rotation[:4]) for x in (q, k))
    ops.kv_cache_write_(k_cache, v_cache, k, v, slots)
    return k_cache, v_cache, q


def bytes_of(tensors: tuple[Tensor, ...]) -> list[Tensor]:
    return [t.contiguous().view(torch.uint8) for t in tensors]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_bits_are_those_of_the_ops(data: st.DataObject) -> None:
    """In every format, dtype, order of pairs and kind of view."""
    torch.manual_seed(data.draw(st.integers(0, 99)))
    names = [data.draw(st.sampled_from(list(CACHE_FORMATS))) for _ in "kv"]
    blocks = any(CACHE_FORMATS[name].blocks for name in names)
    dim = data.draw(st.sampled_from((32, 64, 128, 256) if blocks else (2, 7, 50, 64, 80)))
    rotated = 2 * data.draw(st.integers(0, dim // 2))
    heads, kv_heads = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 2))
    shape = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 4))
    dtype = data.draw(st.sampled_from(FLOATS))
    make = data.draw(st.sampled_from((randn, strided, permuted, None)))
    if make is None:
        qkv = projected(*shape, heads, kv_heads, dim, dtype)
    else:
        qkv = tuple(make(*shape, n, dim, dtype=dtype) for n in (heads, kv_heads, kv_heads))
    norm = data.draw(st.sampled_from((None, dtype, torch.float32)))
    sample = call(*qkv, tuple(names), rotated, data.draw(st.booleans()), norm)
    ours, theirs = sample.copy(), sample.copy()
    q = ops.rope_kv_cache_write_(*ours.args)
    got, wanted = bytes_of((*ours.args[:2], q)), bytes_of(composed(theirs))
    assert all(map(torch.equal, got, wanted))


@pytest.mark.parametrize("run", [ops, reference], ids=["kernel", "reference"])
@pytest.mark.parametrize("interleaved", [False, True])
def test_against_float64(run: object, interleaved: bool) -> None:
    q, k, v = projected(2, 5, 4, 2, 64, torch.float32)
    sample = call(q, k, v, ("f32", "f32"), interleaved=interleaved, norm=torch.float32)
    k_cache, v_cache, *_, slots, positions, inv_freq, _, scale, q_norm, k_norm, eps = sample.args
    before = k_cache.clone(), v_cache.clone()

    def wanted(x: Tensor, weight: Tensor) -> Tensor:
        normed = torch.nn.functional.rms_norm(x.double(), (64,), weight.double(), eps)
        return scale * oracle(normed, positions, inv_freq, interleaved)

    got = run.rope_kv_cache_write_(*sample.args)
    close = {"rtol": RTOL[torch.float32], "atol": 2e-5}
    torch.testing.assert_close(got.double(), wanted(q, q_norm), **close)
    places = slots.flatten()
    for cache, old, new in zip((k_cache, v_cache), before, (wanted(k, k_norm), v), strict=True):
        expected = old.double().flatten(0, 1)
        expected[places[places >= 0]] = new.double().flatten(0, 1)[places >= 0]
        torch.testing.assert_close(cache.double().flatten(0, 1), expected, **close)


def test_nothing_is_written_when_a_slot_is_outside() -> None:
    sample = call(*projected(1, 3, 2, 1, 16, torch.float32))
    before = [cache.clone() for cache in sample.args[:2]]
    sample.args[5][0, 2] = 20
    with pytest.raises(RuntimeError, match=r"slots must be less than the 20 places.*got 20"):
        ops.rope_kv_cache_write_(*sample.args)
    assert all(map(torch.equal, sample.args[:2], before))


@pytest.mark.parametrize("name", ["k_cache", "v_cache", "q", "k", "v", "q_norm", "k_norm"])
def test_gradients_are_refused(name: str) -> None:
    sample = call(*projected(1, 2, 2, 1, 16, torch.float32), ("f32", "f32"), norm=torch.float32)
    names = [a.name for a in ops.rope_kv_cache_write_.default._schema.arguments]
    index = names.index(name)
    args = list(sample.args)
    args[index] = args[index].clone().requires_grad_()
    with pytest.raises(RuntimeError, match=f"rope_kv_cache_write_: {name} requires a gradient"):
        ops.rope_kv_cache_write_(*args)
    with torch.no_grad():
        ops.rope_kv_cache_write_(*args)
