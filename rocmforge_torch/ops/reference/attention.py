"""Attention of new tokens over a cache of keys and values, softmax written out."""

from __future__ import annotations

import torch
from einops import einsum, rearrange, repeat
from torch import Tensor
from torch.nn.functional import pad

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
    mask: Tensor | None = None,
) -> Tensor:
    """The op, and a mask that no kernel takes (as of `attention_weights`)."""
    options = scale, causal, window, softcap, sinks, alibi_slopes, mask
    weight = attention_weights(q, k_cache, seq_lens, block_table, *options)
    v = _written(v_cache, cache_head_dim(v_cache, q.shape[-1]), seq_lens, block_table)
    v = repeat(v, "b s h d -> b s (h g) d", g=q.shape[2] // v.shape[2])
    out = einsum(weight, v, "b h t s, b s h d -> b t h d")
    return out.to(q.dtype, memory_format=torch.contiguous_format)


def attention_weights(
    q: Tensor,
    k_cache: Tensor,
    seq_lens: Tensor,
    block_table: Tensor | None = None,
    scale: float | None = None,
    causal: bool = True,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """What each query takes of each value, float32 [B, H, T, S].

    Args:
        mask: bool (True: seen) or float (added to the scores) [B or 1, H or 1, T, up to S], beside
            what `causal`, `window` and `seq_lens` hide; keys beyond it are not seen.
    """
    k = _written(k_cache, q.shape[-1], seq_lens, block_table)
    num_queries, num_heads, num_keys = q.shape[1], q.shape[2], k.shape[1]
    if scale is None:
        scale = q.shape[-1] ** -0.5

    key_pos = torch.arange(num_keys, device=q.device)
    query = torch.arange(num_queries, device=q.device)
    query_pos = seq_lens[:, None] - num_queries + query  # [B, T]
    distance = key_pos - query_pos[:, :, None]  # [B, T, S], 0 at the query's own key
    visible = repeat(key_pos < seq_lens[:, None], "b s -> b t s", t=num_queries)
    if causal:
        visible = visible & (distance <= 0)
    if window > 0:
        visible = visible & (distance > -window)

    k = repeat(k, "b s h d -> b s (h g) d", g=num_heads // k.shape[2])
    score = einsum(q.float(), k, "b t h d, b s h d -> b h t s") * scale
    if softcap > 0:
        score = softcap * torch.tanh(score / softcap)
    if alibi_slopes is not None:
        score = score + alibi_slopes[:, None, None] * distance[:, None]
    score = score.masked_fill(~visible[:, None], float("-inf"))
    if mask is not None:
        score = score + _bias(mask, num_keys)

    if sinks is not None:  # one more key per head, whose value is zero
        sink = sinks[None, :, None, None].expand(*score.shape[:3], 1)
        score = torch.cat([score, sink], dim=-1)
    empty = (score == float("-inf")).all(-1, keepdim=True)
    weight = torch.softmax(score.masked_fill(empty, 0.0), dim=-1).masked_fill(empty, 0.0)
    return weight[..., :num_keys]


def _written(cache: Tensor, head_dim: int, seq_lens: Tensor, block_table: Tensor | None) -> Tensor:
    """The cache in float32 [B, S, H, D], zero behind seq_lens: what was never written there may be
    anything, NaN included."""
    values = cache_format(cache, head_dim).decode(cache)
    if block_table is not None:
        values = _gather(values, block_table)
    valid = torch.arange(values.shape[1], device=cache.device) < seq_lens[:, None]
    return values.where(valid[:, :, None, None], 0)


def _bias(mask: Tensor, num_keys: int) -> Tensor:
    """A mask as what is added to the scores of all keys."""
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=torch.float32).masked_fill(~mask, float("-inf"))
    return pad(mask.float(), (0, num_keys - mask.shape[-1]), value=float("-inf"))


def _gather(pages: Tensor, block_table: Tensor) -> Tensor:
    """Pages [num_blocks, block_size, H, D] in the order of the table -> [B, S, H, D]."""
    # Entries behind a sequence's last block are never looked at, whatever they hold.
    table = block_table.long().clamp(0, max(pages.shape[0] - 1, 0))
    return rearrange(pages[table], "b n s h d -> b (n s) h d")
