from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from op_samples.attention import attention as samples
from op_samples.attention import call, lengths, paged
from torch import Tensor

from rocmforge_torch.ops import reference
from tests.attention_cases import oracle

ops = torch.ops.rocmforge
RUNNERS = [pytest.param(ops, id="kernel"), pytest.param(reference, id="reference")]


def wanted_of(
    q: Tensor, k: Tensor, v: Tensor, seq_lens: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """tests/attention_cases.oracle of an op's arguments without a block table."""
    return oracle(q.double(), k.double(), v.double(), seq_lens.tolist(), *args, **kwargs)


OPTIONS: list[dict[str, Any]] = [
    {},
    {"causal": False},
    {"window": 3},
    {"causal": False, "window": 3},
    {"softcap": 1.0},
    {"scale": 0.5},
    {"sinks": torch.tensor([0.5, -1.0, 2.0, 0.0])},
    {"alibi_slopes": torch.tensor([0.5, 0.25, 0.125, 0.0625])},
    {"window": 4, "softcap": 2.0, "sinks": torch.zeros(4), "alibi_slopes": torch.full((4,), 0.1)},
]


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
@pytest.mark.parametrize("queries", [1, 5])
def test_attention_is_the_formula(run: object, options: dict[str, Any], queries: int) -> None:
    torch.manual_seed(1)
    sample = call(queries, keys=11, seq_lens=(11, 5, 2), head_dim=24, value_dim=20, **options)
    got = run.attention(*sample.args, **sample.kwargs)
    wanted = wanted_of(*sample.args, **sample.kwargs)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("kv_heads", [1, 2, 8])
def test_attention_is_torchs(run: object, causal: bool, kv_heads: int) -> None:
    torch.manual_seed(2)
    tokens = 130
    sample = call(tokens, tokens, (tokens, tokens), 8, kv_heads, head_dim=64, causal=causal)
    got = run.attention(*sample.args, **sample.kwargs)
    q, k, v = (x.double().transpose(1, 2) for x in sample.args[:3])
    wanted = F.scaled_dot_product_attention(q, k, v, is_causal=causal, enable_gqa=True)
    torch.testing.assert_close(got.double(), wanted.transpose(1, 2), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("block_size", [1, 3, 16, 64])
def test_pages_give_the_bits_of_a_contiguous_cache(block_size: int) -> None:
    torch.manual_seed(3)
    every = [s for s in samples() if len(s.args) == 4 and s.args[1].is_contiguous()]
    for sample in every[::4]:
        pages = paged(sample, block_size)
        got = ops.attention(*pages.args, **pages.kwargs)
        assert torch.equal(got, ops.attention(*sample.args, **sample.kwargs)), sample.kwargs


def test_one_token_at_a_time_gives_the_prefill() -> None:
    torch.manual_seed(4)
    sample = call(40, 40, (40,), head_dim=48, window=9)
    q, k, v, _ = sample.args
    whole = ops.attention(*sample.args, **sample.kwargs)
    for t in range(40):
        one = ops.attention(q[:, t : t + 1], k, v, lengths(t + 1), window=9)
        torch.testing.assert_close(one[:, 0], whole[:, t], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("run", RUNNERS)
def test_queries_that_see_nothing_give_zeros(run: object) -> None:
    q, k, v, seq_lens = call(4, seq_lens=(0, 2, 4)).args
    for sinks in (None, torch.zeros(4)):
        got = run.attention(q, k, v, seq_lens, sinks=sinks)
        assert got.isfinite().all()
        empty = (got == 0).all(-1).all(-1)
        assert empty.tolist() == [[True] * 4, [True, True, False, False], [False] * 4]


@pytest.mark.parametrize("run", RUNNERS)
def test_large_scores_choose_the_largest_key(run: object) -> None:
    q, k, v, seq_lens = call(1, keys=200, seq_lens=(200, 150)).args
    got = run.attention(1000 * q, 1000 * k, v, seq_lens)  # exp of the raw scores would overflow
    for b, length in enumerate(seq_lens.tolist()):
        for head in range(4):
            best = (k[b, :length, head // 2] @ q[b, 0, head]).argmax()
            torch.testing.assert_close(got[b, 0, head], v[b, best, head // 2])


def test_half_caches_lose_their_rounding_alone() -> None:
    torch.manual_seed(5)
    q, k, v, seq_lens = call(7, keys=70, seq_lens=(70, 33)).args
    for dtype in (torch.float16, torch.bfloat16):
        rounded = k.to(dtype), v.to(dtype)
        got = ops.attention(q, *rounded, seq_lens)
        wanted = ops.attention(q, *(x.float() for x in rounded), seq_lens)
        assert torch.equal(got, wanted)
