"""`attn_implementation="rocmforge"`: attention by this package's op in models of transformers.

`register` makes the name known by transformers' public interfaces, one for attention and one for
masks; `from_gguf` calls it. A causal mask becomes a number of keys a sequence (`causal_mask.py`),
and the op reads the cache where it lies: nothing is repeated for the heads of a group, and no mask
is written. What the op does not compute goes through transformers' "sdpa", or, where that has no
soft cap and no sinks, through the op's reference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from ...ops import reference
from ...ops.reference.cache_formats import cache_format
from .causal_mask import causal_mask, lengths_and_window, visible

NAME = "rocmforge"
MOST_VALUES = 256  # of a head that kernels on a GPU take
attention = torch.ops.rocmforge.attention.default


def register() -> str:
    """Make the implementation known to transformers; returns the name it has there."""
    AttentionInterface.register(NAME, attention_forward)
    AttentionMaskInterface.register(NAME, mask)
    return NAME


def mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: Any = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] = causal_mask_function,
    attention_mask: Tensor | None = None,
    local_size: int | None = None,
    allow_is_causal_skip: bool = True,
    use_vmap: bool = False,
    device: torch.device | str = "cpu",
    config: Any = None,
    **kw: Any,
) -> Tensor | None:
    """The mask of a call, once for all layers of a kind.

    Arguments are those of `sdpa_mask`; `q_offset` may be an int64 tensor [], as static caches have
    it.

    Returns:
        `causal_mask` if the mask is causal, with a window or without, and nothing is padding; else
        what transformers makes for "sdpa".
    """
    # A single query may not skip the mask of a static cache, whatever the mask is.
    deviates = use_vmap or not (allow_is_causal_skip or q_length == 1)
    if local_size is None:
        deviates |= mask_function is not causal_mask_function
    else:  # a window, or the chunks of Llama 4, whose masks look alike from here
        deviates |= local_size == 1 or getattr(config, "attention_chunk_size", None) is not None
    if not deviates and _has_no_padding(attention_mask):
        lengths = torch.full((batch_size,), q_length - kv_offset, dtype=torch.int32, device=device)
        return causal_mask((lengths + q_offset).to(torch.int32), local_size or 0)
    made: Tensor | None = sdpa_mask(
        batch_size,
        q_length,
        kv_length,
        q_offset,
        kv_offset,
        mask_function,
        attention_mask,
        local_size=local_size,
        allow_is_causal_skip=allow_is_causal_skip,
        use_vmap=use_vmap,
        device=device,
        **kw,
    )
    return made


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    position_bias: Tensor | None = None,
    **kw: Any,
) -> tuple[Tensor, None]:
    """Attention as a layer of transformers calls it.

    Args:
        module: the layer.
        query: [B, H, T, D].
        key, value: [B, Hkv, S, D]; of a `RocmForgeCache` in the format that it has.
        attention_mask: of `mask`, or any that "sdpa" takes.
        scaling: of the scores; 1/sqrt(D) if it is None.
        dropout: of the weights.
        softcap: of the scores.
        s_aux: sinks [H], a score of each head that no key has.
        position_bias: added to the scores.
        kw: what else the layer says.

    Returns:
        [B, T, H, D], and None: the weights are never there.

    Raises:
        ValueError: dropout or a bias of positions together with a soft cap or sinks.
    """
    only_ours = bool(softcap) or s_aux is not None
    only_sdpa = bool(dropout) or position_bias is not None
    if only_ours and only_sdpa:
        raise ValueError(
            "attn_implementation='rocmforge' has no dropout and no position_bias together with a "
            "soft cap or sinks; use 'eager'"
        )
    # The op's derivative holds all scores in memory; that of "sdpa" does not.
    trains = torch.is_grad_enabled() and query.requires_grad and not only_ours
    fits = query.device.type == "cpu" or max(query.shape[3], value.shape[3]) <= MOST_VALUES
    sinks = None if s_aux is None else s_aux.float()
    lengths = lengths_and_window(attention_mask)
    if lengths is not None and fits and not (only_sdpa or trains):
        seq_lens, window = lengths
        states = (x.transpose(1, 2) for x in (query, key, value))
        options = None, scaling, True, window, softcap or 0.0, sinks
        return attention(*states, seq_lens, *options), None
    if lengths is not None:
        attention_mask = _as_sdpa_takes_it(*lengths, query.shape[2], key.shape[2])
        kw["is_causal"] = True
    key, value = (_values(x, query) for x in (key, value))
    if only_ours:
        how = scaling, softcap or 0.0, sinks
        return _by_reference(query, key, value, attention_mask, *how), None
    kw["position_bias"] = position_bias
    return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, **kw)


def _has_no_padding(attention_mask: Tensor | None) -> bool:
    """Whether a mask [B, S] of real tokens, if there is one, is known to hide none."""
    if attention_mask is None:
        return True
    # Neither a compiler nor a graph that is being captured can look into it.
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if attention_mask.is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return bool(attention_mask.all())


def _as_sdpa_takes_it(seq_lens: Tensor, window: int, queries: int, keys: int) -> Tensor | None:
    if queries == keys and not 0 < window < keys:
        return None  # causal from the first key on, for which its kernels need no mask
    return visible(seq_lens, window, queries, keys)


def _values(stored: Tensor, query: Tensor) -> Tensor:
    """Keys or values [B, Hkv, S, *] of a cache in any format as numbers of the query's dtype."""
    if stored.dtype == query.dtype:
        return stored
    return cache_format(stored, query.shape[-1]).decode(stored).to(query.dtype)


def _by_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    softcap: float,
    sinks: Tensor | None,
) -> Tensor:
    """Attention under any mask, bool or float, None for a causal one; states [B, H, T, D]."""
    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    whole = torch.full((query.shape[0],), key.shape[1], dtype=torch.int32, device=query.device)
    options = None, scaling, mask is None, 0, softcap, sinks
    return reference.attention(query, key, value, whole, *options, mask=mask)
