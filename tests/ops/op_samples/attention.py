from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from rocmforge_torch.ops.reference.cache_formats import CACHE_FORMATS

from .base import FLOATS, BadSample, BadSamples, Sample, Samples, randn, strided

# Formats of keys and of values.
FORMAT_PAIRS = (
    ("fp8", "fp8"),
    ("fp8_e5m2", "fp8_e5m2"),
    ("q8_0", "q8_0"),
    ("q4_0", "q4_0"),
    ("f16", "q8_0"),
    ("q8_0", "bf16"),
    ("q4_0", "fp8"),
)


def lengths(*values: int) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def call(
    queries: int = 1,
    keys: int = 20,
    seq_lens: tuple[int, ...] = (20, 7),
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    value_dim: int | None = None,
    q_dtype: torch.dtype = torch.float32,
    cache_dtype: torch.dtype = torch.float32,
    formats: tuple[str, str] | None = None,
    **options: Any,
) -> Sample:
    """A call on random tensors; what lies behind seq_lens in the caches is NaN.

    formats: of keys and of values, in place of cache_dtype.
    """
    batch = len(seq_lens)
    q = randn(batch, queries, heads, head_dim, dtype=q_dtype)
    k = randn(batch, keys, kv_heads, head_dim, dtype=cache_dtype)
    v = randn(batch, keys, kv_heads, value_dim or head_dim, dtype=cache_dtype)
    for b, length in enumerate(seq_lens):
        k[b, length:] = v[b, length:] = float("nan")
    if formats is not None:
        k, v = (CACHE_FORMATS[name].encode(x) for name, x in zip(formats, (k, v), strict=True))
    return Sample((q, k, v, lengths(*seq_lens)), options, " ".join(formats or ()))


def paged(sample: Sample, block_size: int) -> Sample:
    """The same call with the caches cut into pages, shuffled, between pages of NaN."""
    q, k, v, seq_lens = sample.args
    batch, keys = k.shape[:2]
    per_sequence = -(-keys // block_size)
    order = torch.randperm(batch * per_sequence + 3)
    table = order[: batch * per_sequence].reshape(batch, per_sequence)

    def cut(cache: Tensor) -> Tensor:
        # As bytes: torch cannot index 8-bit floats. 255 everywhere is NaN in every format.
        rows = cache.view(torch.uint8)
        pages = rows.new_full((len(order), block_size, *rows.shape[2:]), 255)
        for position in range(keys):
            page = table[:, position // block_size]
            pages[page, position % block_size] = rows[:, position]
        return pages.view(cache.dtype)

    used = torch.arange(per_sequence) * block_size < seq_lens[:, None]
    block_table = table.where(used, -1).int()  # nobody looks at the rest
    return Sample((q, cut(k), cut(v), seq_lens, block_table), sample.kwargs, "paged")


def attention() -> Iterator[Sample]:
    for q_dtype in FLOATS:
        for cache_dtype in FLOATS:
            yield call(queries=3, q_dtype=q_dtype, cache_dtype=cache_dtype)
    for formats in FORMAT_PAIRS:
        yield call(queries=3, head_dim=64, value_dim=96, formats=formats)
        yield paged(call(head_dim=64, formats=formats, q_dtype=torch.bfloat16), block_size=4)
    yield call(keys=1200, seq_lens=(1200, 513), head_dim=128, formats=("q8_0", "q4_0"))
    yield call(queries=70, keys=150, seq_lens=(150, 71), head_dim=96, formats=("q4_0", "q8_0"))
    for heads, kv_heads in ((1, 1), (6, 2), (5, 1), (3, 3)):
        yield call(heads=heads, kv_heads=kv_heads, head_dim=33, value_dim=17)
    for options in (
        {"window": 5},
        {"causal": False},
        {"causal": False, "window": 4},
        {"softcap": 1.5},
        {"scale": 0.3},
        {"sinks": randn(4)},
        {"alibi_slopes": torch.tensor([0.5, 0.25, 0.0, 0.125])},
        {
            "window": 3,
            "softcap": 2.0,
            "sinks": randn(4),
            "alibi_slopes": torch.rand(4),
            "scale": 1.0,
        },
    ):
        yield call(queries=6, seq_lens=(20, 6), **options)
        yield paged(call(queries=6, seq_lens=(20, 6), **options), block_size=4)
        yield call(queries=1, keys=1200, seq_lens=(1200, 513), **options)
        yield call(queries=70, keys=150, seq_lens=(150, 71), **options)
    yield call(queries=4, seq_lens=(0, 2))  # sequences shorter than their queries
    yield call(queries=4, seq_lens=(0, 2), sinks=randn(4))
    yield call(queries=1, keys=600, seq_lens=(600, 0))
    yield paged(call(queries=1, keys=600, seq_lens=(600, 0)), block_size=16)
    yield call(queries=0)
    yield call(queries=33, heads=8, kv_heads=8, head_dim=64, keys=64, seq_lens=(64,))
    yield call(queries=20, heads=8, kv_heads=1, head_dim=256, keys=64, seq_lens=(64,))
    q = randn(2, 4, 3, 32).transpose(1, 2)
    k, v = strided(2, 9, 2, 32), randn(2, 2, 9, 32).transpose(1, 2)
    yield Sample((q, k, v, lengths(9, 8)), name="views")
    yield Sample((q, randn(2, 9, 32, 2).transpose(2, 3), v, lengths(9, 8)), name="columns")


def bad_attention() -> Iterator[BadSample]:
    q, k, v, seq_lens = call(queries=3).args
    good = {"q": q, "k_cache": k, "v_cache": v, "seq_lens": seq_lens, "block_table": None}
    table = torch.zeros(2, 5, dtype=torch.int32)

    def bad(match: str, on_meta: bool = True, **changes: Any) -> BadSample:
        args = tuple(changes.pop(name, value) for name, value in good.items())
        return BadSample(args, match, changes, on_meta)

    yield bad(r"q must be \[B, T, Hq, D\], got \[3, 4, 32\]", q=q[0])
    yield bad("q must be float32 or", q=q.double())
    yield bad("k_cache must be float32 or .* or uint8, got float64", k_cache=k.double())
    blocks = torch.zeros(2, 20, 2, 34, dtype=torch.uint8)
    yield bad(
        "v_cache must have whole q8_0 blocks of 34 bytes .* got 33",
        v_cache=blocks[..., 1:].contiguous(),
    )
    yield bad(
        "k_cache must have 34 bytes a head .q8_0. or 18 .* got 68",
        k_cache=blocks.repeat(1, 1, 1, 2),
    )
    yield bad(
        "k_cache holds blocks: heads must .* of 32 values, got 31", k_cache=blocks, q=q[..., 1:]
    )
    yield bad("v_cache holds blocks: its last stride must be 1", v_cache=blocks.mT.contiguous().mT)
    yield bad(r"k_cache must be \[A, S, Hkv, D\], got \[20", k_cache=k[0])
    yield bad(r"v_cache must be \[A, S, Hkv, D\], got \[20", v_cache=v[0])
    yield bad(r"k_cache must have shape \[2, 20, 2, 32\], got \[2, 20, 2, 31\]", k_cache=k[..., 1:])
    yield bad(r"v_cache must have shape \[2, 20, 2, 32\], got \[2, 19, 2, 32\]", v_cache=v[:, 1:])
    yield bad("3 .*heads.* no multiple of 2", q=q[:, :, :3])
    yield bad("seq_lens must be int32, got int64", seq_lens=seq_lens.long())
    yield bad(r"seq_lens must have shape \[2\], got \[1\]", seq_lens=seq_lens[:1])
    yield bad("k_cache holds 1 sequences, q 2", k_cache=k[:1], v_cache=v[:1])
    yield bad("block_table must be int32, got int64", block_table=table.long())
    yield bad(r"block_table must be \[", block_table=table[0])
    yield bad(r"block_table must .*\[2.*got \[1, 5\]", block_table=table[:1])
    yield bad("window must not be negative, got -1", window=-1)
    yield bad("softcap must not be negative, got -2", softcap=-2.0)
    for name in ("sinks", "alibi_slopes"):
        yield bad(f"{name} must be float32, got float16", **{name: randn(4).half()})
        yield bad(rf"{name} must have shape \[4\], got \[3\]", **{name: randn(3)})
    for length in (-1, 21):
        message = f"seq_lens must be between 0 and the 20 .*got .?{length}"
        yield bad(message, on_meta=False, seq_lens=lengths(7, length))
    for block in (-1, 2):
        wrong = table.clone()
        wrong[1, 0] = block
        message = f"block_table must hold blocks between 0 and 1 .*got .?{block}"
        yield bad(message, on_meta=False, block_table=wrong)


SAMPLES: Samples = {"attention": attention}
BAD_SAMPLES: BadSamples = {"attention": bad_attention}
