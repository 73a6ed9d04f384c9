from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from rocmforge_torch.ops.reference.cache_formats import CACHE_FORMATS

from .base import FLOATS, BadSample, BadSamples, Sample, Samples, permuted, randn, strided


def offset(value: int) -> Tensor:
    return torch.tensor(value)


def accumulate_() -> Iterator[Sample]:
    for dtype in FLOATS:
        yield Sample((randn(9, 5, dtype=dtype), randn(4, 5, dtype=dtype), offset(3)))
        yield Sample((strided(6, 3, 21, dtype=dtype), randn(2, 3, 21, dtype=dtype), offset(4)))
    yield Sample((randn(9), randn(4), offset(5).reshape(1)), name="vector")
    yield Sample((randn(18)[::2], randn(4), offset(0)), name="strided vector")
    yield Sample((permuted(4, 5, 6), strided(4, 5, 6), offset(0)), name="views")
    yield Sample((randn(4, 3), randn(0, 3), offset(4)), name="nothing to add")
    yield Sample((randn(400, 300), randn(300, 300), offset(50)), name="several threads")


def bad_accumulate_() -> Iterator[BadSample]:
    dst, src = randn(9, 5), randn(4, 5)
    yield BadSample((dst.double(), src.double(), offset(0)), "dst must be float32 or")
    yield BadSample((dst[0, 0], src, offset(0)), "dst must have at least 1 dim")
    yield BadSample((dst, src[0, 0], offset(0)), "src must have at least 1 dim")
    yield BadSample((dst, randn(4, 6), offset(0)), r"src must have .*shape.*got \[4, 6\]")
    yield BadSample((dst, src.half(), offset(0)), "src must be float32, got float16")
    yield BadSample((dst, randn(10, 5), offset(0)), "src has 10 rows but dst has only 9")
    yield BadSample((dst, src, offset(0).int()), "offset must be int64, got int32")
    yield BadSample(
        (dst, src, torch.tensor([0, 1])), r"offset must have shape \[\] or \[1\], got .2"
    )
    for start in (-1, 6, 2**62):
        message = f"offset must be between 0 and 5 .*got {start}"
        yield BadSample((dst, src, offset(start)), message, on_meta=False)


def caches(*shape: int, value_dim: int = 0, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return randn(*shape, dtype=dtype), randn(*shape[:-1], value_dim or shape[-1], dtype=dtype)


def kv_cache_write_() -> Iterator[Sample]:
    for cache_dtype in FLOATS:
        for dtype in FLOATS:
            k, v = caches(2, 3, 2, 16, value_dim=24, dtype=dtype)
            slots = torch.randperm(2 * 8)[:6].reshape(2, 3)
            yield Sample((*caches(2, 8, 2, 16, value_dim=24, dtype=cache_dtype), k, v, slots))
    k, v = caches(5, 3, 7, dtype=torch.float32)
    slots = torch.tensor([3, -1, 40, -7, 0])
    pages = caches(11, 4, 3, 7, dtype=torch.float16)
    yield Sample((*pages, k, v, slots), name="pages, some skipped")
    by_heads = [cache.transpose(1, 2) for cache in caches(11, 3, 4, 7, dtype=torch.float16)]
    yield Sample((*by_heads, k, v, slots), name="cache with heads first in memory")
    yield Sample((*pages, permuted(5, 3, 7), strided(5, 3, 7), slots), name="views")
    yield Sample((permuted(11, 4, 3, 7), strided(11, 4, 3, 7), k, v, slots), name="cache views")
    yield Sample((*pages, k[:0], v[:0], slots[:0]), name="no tokens")
    for k_name, v_name, dtype in FORMAT_PAIRS:
        k, v = caches(2, 3, 2, 64, value_dim=96, dtype=dtype)
        k_cache, v_cache = stored(k_name, 2, 8, 2, 64), stored(v_name, 2, 8, 2, 96)
        slots = torch.tensor([[3, 15, -1], [0, 9, 8]])
        yield Sample((k_cache, v_cache, 4 * k, v, slots), name=f"{k_name} {v_name}")
    k, v = permuted(5, 3, 32), strided(5, 3, 64)
    wide = stored("q8_0", 11, 4, 3, 64).narrow(3, 34, 34)
    by_heads = stored("q4_0", 11, 3, 4, 64).transpose(1, 2)
    slots = torch.tensor([3, -1, 40, -7, 0])
    yield Sample((wide, by_heads, k, v, slots), name="views of blocks")
    many = caches(700, 2, 32, dtype=torch.float32)
    yield Sample((*caches(1, 900, 2, 32, dtype=torch.float16), *many, torch.randperm(900)[:700]))


# A format for keys, one for values, and the dtype of the tokens.
FORMAT_PAIRS = (
    ("fp8", "fp8", torch.float32),
    ("fp8", "fp8_e5m2", torch.bfloat16),
    ("fp8_e5m2", "f32", torch.float16),
    ("q8_0", "q8_0", torch.float32),
    ("q8_0", "q4_0", torch.float16),
    ("q4_0", "q4_0", torch.bfloat16),
    ("f16", "q4_0", torch.float32),
    ("q8_0", "fp8", torch.bfloat16),
)


def stored(name: str, *shape: int) -> Tensor:
    """A cache in a format; shape: that of its values."""
    entry = CACHE_FORMATS[name]
    return entry.encode(randn(*shape))


def bad_kv_cache_write_() -> Iterator[BadSample]:
    k_cache, v_cache = caches(2, 8, 2, 16, value_dim=24, dtype=torch.float16)
    k, v = caches(3, 2, 16, value_dim=24, dtype=torch.float32)
    slots = torch.arange(3)
    k32 = randn(3, 2, 32)

    def bad(match: str, on_meta: bool = True, **changes: Tensor) -> BadSample:
        args = {"k_cache": k_cache, "v_cache": v_cache, "k": k, "v": v, "slots": slots}
        return BadSample(tuple((args | changes).values()), match, on_meta=on_meta)

    yield bad(
        "k_cache must be float32 or float16 or .* or uint8, got float64", k_cache=k_cache.double()
    )
    yield bad("k must be float32 or", k=k.double())
    yield bad(r"k_cache must be \[A, S, Hkv, D\], got \[8, 2, 16\]", k_cache=k_cache[0])
    yield bad(r"v_cache must be \[A, S, Hkv, D\], got \[8, 2, 24\]", v_cache=v_cache[0])
    yield bad("k must have at least 2 dim", k=k[0, 0], slots=slots[0])
    yield bad(r"k must have shape \[3, 2, 16\], got \[3, 2, 15\]", k=k[..., :15])
    yield bad(r"v must have shape \[3, 2, 24\], got \[2, 2, 24\]", v=v[:2])
    yield bad("v must be float32, got bfloat16", v=v.bfloat16())
    yield bad(r"v_cache must have shape \[2, 8, 2, 24\], got \[1, 8", v_cache=v_cache[:1])
    yield bad("slots must be int64, got int32", slots=slots.int())
    yield bad("slots must have one entry for each of the 3 tokens of k, got .2.", slots=slots[:2])
    blocks = stored("q8_0", 2, 8, 2, 64)
    long = randn(3, 2, 64)
    yield bad("k_cache holds blocks: heads must have a mult.* of 32 values, got 16", k_cache=blocks)
    yield bad("k_cache must have 34 bytes .* or 18 .* for 32 values, got 68", k_cache=blocks, k=k32)
    yield bad(
        "v_cache must have 68 bytes a head .q8_0. or 36 .q4_0. for 64 values, got 33",
        v=long,
        v_cache=blocks[..., 1:34].contiguous(),
    )
    yield bad("its last stride must be 1", k_cache=blocks.transpose(2, 3).contiguous().mT, k=long)
    odd = torch.zeros(2, 8, 2, 69, dtype=torch.uint8)
    yield bad(
        "others and its start even, got strides .1104, 138, 69, 1. from 0",
        k=long,
        k_cache=odd[..., :68],
    )
    yield bad("k must have shape .3, 2, 64., got .3, 1, 64.", k_cache=blocks, k=long[:, :1])
    for slot in (16, 2**40):
        places = torch.tensor([0, slot, 1])
        yield bad(f"slots must be less than the 16 .*got {slot}", on_meta=False, slots=places)


SAMPLES: Samples = {"accumulate_": accumulate_, "kv_cache_write_": kv_cache_write_}
BAD_SAMPLES: BadSamples = {
    "accumulate_": bad_accumulate_,
    "kv_cache_write_": bad_kv_cache_write_,
}
