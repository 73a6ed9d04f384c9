from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .base import FLOATS, BadSample, BadSamples, Sample, Samples, permuted, randn, strided
from .cache import FORMAT_PAIRS, stored
from .rope import frequencies


def projected(
    batch: int, tokens: int, heads: int, kv_heads: int, dim: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v as views of one product."""
    product = 4 * randn(batch, tokens, heads + 2 * kv_heads, dim, dtype=dtype)
    q, k, v = product.split([heads, kv_heads, kv_heads], 2)
    return q, k, v


def call(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    formats: tuple[str, str] = ("f16", "f16"),
    rotated: int | None = None,
    interleaved: bool = False,
    norm: torch.dtype | None = None,
    name: str = "",
) -> Sample:
    """A call with a cache of two sequences of seven places more than there are tokens, a slot
    that is passed over, and positions of every token."""
    leading, dim = q.shape[:-2], q.shape[-1]
    count = leading.numel()
    shape = (2, count + 7, k.shape[-2])
    caches = stored(formats[0], *shape, dim), stored(formats[1], *shape, v.shape[-1])
    slots = torch.randperm(2 * (count + 7))[:count]
    slots[count // 2 : count // 2 + 1] = -1
    positions = torch.randint(0, 4096, leading)
    inv_freq = frequencies(dim if rotated is None else rotated)
    args: tuple[Any, ...] = (*caches, q, k, v, slots.view(leading), positions, inv_freq)
    if norm is not None:
        weights = randn(dim, dtype=norm), 1 + randn(dim, dtype=norm)
        return Sample((*args, interleaved, 1.25, *weights, 1e-5), name=name)
    return Sample((*args, interleaved, 1.25), name=name)


def rope_kv_cache_write_() -> Iterator[Sample]:
    for dtype in FLOATS:
        for interleaved in (False, True):
            q, k, v = projected(2, 3, 4, 2, 32, dtype)
            yield call(q, k, v, interleaved=interleaved, name=f"{dtype}")
            yield call(q, k, v, ("bf16", "f32"), 20, interleaved, dtype, "part of a head, normed")
            yield call(q, k, v, interleaved=interleaved, norm=torch.float32, name="float32 norms")
    for k_name, v_name, dtype in FORMAT_PAIRS:
        q, k, _ = projected(1, 5, 3, 1, 64, dtype)
        v = randn(1, 5, 1, 96, dtype=dtype)
        # A format of few bits shows the last bit of a cosine as a whole step: at position 0 all
        # cosines are exact. test_rope_cache.py has the others.
        for interleaved in (False, True):
            sample = call(q, k, v, (k_name, v_name), 40, interleaved, name=f"{k_name} {v_name}")
            sample.args[6].zero_()
            yield sample
    one = projected(1, 1, 5, 1, 256, torch.bfloat16)
    yield call(*one, ("bf16", "bf16"), norm=torch.float32, name="one token")
    wide = projected(1, 3, 2, 1, 1000, torch.float16)
    yield call(*wide, norm=torch.float16, name="long heads")
    odd = strided(2, 3, 3, 26), permuted(2, 3, 2, 26), strided(2, 3, 2, 7)
    yield call(*odd, ("f32", "bf16"), 18, norm=torch.float32, name="odd views")
    heads_first = [randn(2, n, 4, 24).transpose(1, 2) for n in (4, 2, 2)]
    yield call(*heads_first, norm=torch.float32, name="heads first in memory")
    sample = call(*projected(1, 6, 2, 1, 32, torch.float32), name="int32 positions of a sequence")
    sample.args = (*sample.args[:6], torch.arange(9, 15, dtype=torch.int32), *sample.args[7:])
    yield sample
    sample = call(*projected(1, 4, 2, 1, 16, torch.float32), name="one norm alone, none rotated")
    yield Sample((*sample.args[:7], torch.empty(0)), {"k_norm": randn(16)}, name=sample.name)
    yield call(*projected(0, 4, 2, 1, 16, torch.float32), norm=torch.float32, name="no sequences")
    many = projected(1, 300, 4, 2, 64, torch.float32)
    yield call(*many, norm=torch.float32, name="several threads")


NAMES = ("k_cache", "v_cache", "q", "k", "v", "slots", "positions", "inv_freq")


def bad_rope_kv_cache_write_() -> Iterator[BadSample]:
    q, k, v = projected(1, 3, 4, 2, 16, torch.float32)
    good = dict(zip(NAMES, call(q, k, v).args, strict=False))
    places = good["k_cache"].shape[0] * good["k_cache"].shape[1]

    def bad(match: str, on_meta: bool = True, **changes: Any) -> BadSample:
        args = good | {name: changes.pop(name) for name in NAMES if name in changes}
        return BadSample(tuple(args.values()), match, changes, on_meta)

    yield bad("q must be float32 or", q=q.double())
    yield bad("q must have at least 3 dim", q=q[0, 0])
    yield bad(
        "positions must have shape .* dimensions of q .1, 3, 4, 16., got .4", positions=slots(4)
    )
    yield bad("positions must be int64 or int32", positions=good["positions"].float())
    yield bad(r"inv_freq must have shape \[R/2\] with R <= 16, got .9", inv_freq=randn(9))
    yield bad("inv_freq must be float32, got bfloat16", inv_freq=good["inv_freq"].bfloat16())
    yield bad(
        "k_cache must be float32 or float16 or .*got float64", k_cache=good["k_cache"].double()
    )
    yield bad("k must have shape .1, 3, 2, 16., got .1, 3, 3, 16", k=randn(1, 3, 3, 16))
    yield bad("k must have shape .1, 3, 2, 16., got .3, 2, 16", k=k[0], v=v[0], slots=slots(3))
    yield bad("k must be float32, got float16", k=k.half(), v=v.half())
    yield bad("v must be float32, got float16", v=v.half())
    yield bad("slots must have one entry for each of the 3 tokens", slots=slots(4))
    yield bad("slots must be int64, got int32", slots=slots(3).int())
    yield bad(r"q_norm must have shape \[16\], got \[15\]", q_norm=randn(15))
    yield bad("k_norm must be float32, got float16", k_norm=randn(16).half())
    blocks = stored("q8_0", 2, 8, 2, 32)
    yield bad("k_cache holds blocks: heads must have a mult.* of 32 values, got 16", k_cache=blocks)
    outside = torch.tensor([0, places, 1])
    yield bad(f"slots must be less than the {places} .*got {places}", False, slots=outside)


def slots(count: int) -> Tensor:
    return torch.arange(count)


SAMPLES: Samples = {"rope_kv_cache_write_": rope_kv_cache_write_}
BAD_SAMPLES: BadSamples = {"rope_kv_cache_write_": bad_rope_kv_cache_write_}
