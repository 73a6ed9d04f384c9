"""Attention of new tokens over a cache of keys and values, softmax written out."""

from __future__ import annotations

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor

from .cache_formats import cache_format, cache_head_dim


def attention(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    seq_lens: Tensor,
    block_table: Tensor | None = None,
    scale: float | None = None,
    causal: bool = True,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    value_dim = cache_head_dim(v_cache, q.shape[-1])
    k_cache = cache_format(k_cache, q.shape[-1]).decode(k_cache)
    v_cache = cache_format(v_cache, value_dim).decode(v_cache)
    if block_table is not None:
        k_cache, v_cache = _gather(k_cache, block_table), _gather(v_cache, block_table)
    num_queries, num_heads, num_keys = q.shape[1], q.shape[2], k_cache.shape[1]
    group = num_heads // k_cache.shape[2]
    if scale is None:
        scale = q.shape[-1] ** -0.5

    key_pos = torch.arange(num_keys, device=q.device)
    query = torch.arange(num_queries, device=q.device)
    query_pos = seq_lens[:, None] - num_queries + query  # [B, T]
    distance = key_pos - query_pos[:, :, None]  # [B, T, S], 0 at the query's own key
    valid = key_pos < seq_lens[:, None]  # [B, S]
    visible = repeat(valid, "b s -> b t s", t=num_queries)
    if causal:
        visible = visible & (distance <= 0)
    if window > 0:
        visible = visible & (distance > -window)

    # What stands behind seq_lens was never written: it may hold anything, NaN included.
    valid = valid[:, :, None, None]
    k = repeat(k_cache.where(valid, 0), "b s h d -> b s (h g) d", g=group)
    v = repeat(v_cache.where(valid, 0), "b s h d -> b s (h g) d", g=group)

    score = einsum(q.float(), k, "b t h d, b s h d -> b h t s") * scale
    if softcap > 0:
        score = softcap * torch.tanh(score / softcap)
    if alibi_slopes is not None:
        score = score + alibi_slopes[:, None, None] * distance[:, None]
    score = score.masked_fill(~visible[:, None], float("-inf"))

    if sinks is not None:  # one more key per head, whose value is zero
        sink = sinks[None, :, None, None].expand(*score.shape[:3], 1)
        score = torch.cat([score, sink], dim=-1)
    empty = (score == float("-inf")).all(-1, keepdim=True)
    weight = torch.softmax(score.masked_fill(empty, 0.0), dim=-1).masked_fill(empty, 0.0)
    out = einsum(weight[..., :num_keys], v, "b h t s, b s h d -> b t h d")
    return out.to(q.dtype, memory_format=torch.contiguous_format)


def _gather(pages: Tensor, block_table: Tensor) -> Tensor:
    """Pages [num_blocks, block_size, H, D] in the order of the table -> [B, S, H, D]."""
    # Entries behind a sequence's last block are never looked at, whatever they hold.
    table = block_table.long().clamp(0, max(pages.shape[0] - 1, 0))
    return rearrange(pages[table], "b n s h d -> b (n s) h d")
