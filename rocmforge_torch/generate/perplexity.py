"""Perplexity of a text, by llama.cpp's procedure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..models import CausalLM
from ..nn import KVCache, uncached_step
from ..nn.kv_cache import CacheDtypes

LOGIT_ROWS = 64  # positions whose logits exist at once


@dataclass(frozen=True)
class Perplexity:
    """The value after some windows.

    Attributes:
        chunk, chunks: windows done, and windows in all.
        value: exp of the mean negative log-probability of all positions so far.
        error: its standard error.
        positions: how many positions were scored.
    """

    chunk: int
    chunks: int
    value: float
    error: float
    positions: int


def perplexity(
    model: CausalLM,
    text: str,
    ctx_size: int = 512,
    chunks: int | None = None,
    cache_dtype: CacheDtypes | None = None,
) -> Iterator[Perplexity]:
    """Score a text in windows that do not overlap.

    The first token of every window is replaced by BOS where the model uses one, and each token of
    the second half (positions ctx_size / 2 to ctx_size - 2) is scored by how likely it makes the
    next one.

    Args:
        model: the model.
        text: the text.
        ctx_size: tokens of a window.
        chunks: at most so many windows.
        cache_dtype: of the KV cache that every window goes through, as in `generate_tokens`; None
            for keys and values as they are computed.

    Yields:
        The running value after every window.

    Raises:
        ValueError: ctx_size is less than 4, chunks is not positive, or the text fills no window.
    """
    tokens = model.tokenizer.encode(text)
    bos = model.tokenizer.bos_id
    return token_perplexity(
        model, tokens, bos if tokens and tokens[0] == bos else None, ctx_size, chunks, cache_dtype
    )


@torch.inference_mode()
def token_perplexity(
    model: CausalLM,
    tokens: Sequence[int],
    bos_id: int | None = None,
    ctx_size: int = 512,
    chunks: int | None = None,
    cache_dtype: CacheDtypes | None = None,
) -> Iterator[Perplexity]:
    """`perplexity` of tokens; `bos_id`, if any, replaces the first token of every window."""
    parts = windows(tokens, bos_id, ctx_size, chunks)
    cache = None if cache_dtype is None else model.new_cache(1, ctx_size, cache_dtype)
    total = squares = 0.0
    positions = 0
    for index, window in enumerate(parts):
        if cache is not None:
            cache.reset()
        scores = token_logprobs(model, torch.tensor([window], device=model.device), cache)
        scores = scores[ctx_size // 2 :].double()
        total -= scores.sum().item()
        squares += scores.square().sum().item()
        positions += scores.numel()
        mean = total / positions
        variance = max(squares / positions - mean**2, 0.0)
        value = math.exp(mean)
        error = value * math.sqrt(variance / max(positions - 1, 1))
        yield Perplexity(index + 1, len(parts), value, error, positions)


def windows(
    tokens: Sequence[int], bos_id: int | None, ctx_size: int, chunks: int | None
) -> list[list[int]]:
    """A text cut into windows that do not overlap; what fills none is left out.

    Args:
        tokens: the text.
        bos_id: replaces the first token of every window, if any.
        ctx_size: tokens of a window.
        chunks: at most so many windows.

    Raises:
        ValueError: ctx_size is less than 4, chunks is not positive, or the text fills no window.
    """
    if ctx_size < 4:
        raise ValueError(f"ctx_size must be at least 4, got {ctx_size}")
    if chunks is not None and chunks < 1:
        raise ValueError(f"chunks must be positive, got {chunks}")
    count = len(tokens) // ctx_size
    if count == 0:
        raise ValueError(
            f"the text has {len(tokens)} tokens and fills no window of {ctx_size}; "
            "take a longer text or a smaller context"
        )
    parts = [
        list(tokens[i * ctx_size : (i + 1) * ctx_size]) for i in range(min(count, chunks or count))
    ]
    return parts if bos_id is None else [[bos_id, *part[1:]] for part in parts]


def token_logprobs(model: CausalLM, ids: Tensor, cache: KVCache | None = None) -> Tensor:
    """ids int [1, T] -> natural-log probability of each token given those before it [T - 1].

    With an empty cache with room for T tokens, keys and values go through it.
    """
    step = uncached_step(ids) if cache is None else cache.advance(ids.shape[1])
    hidden = model.hidden(ids, step, cache)[0, :-1]
    scores = []
    for start in range(0, hidden.shape[0], LOGIT_ROWS):
        rows = slice(start, start + LOGIT_ROWS)
        logits = model.logits(hidden[rows]).float()
        chosen = logits.gather(-1, ids[0, 1:][rows, None])[:, 0]
        scores.append(chosen - logits.logsumexp(-1))
    return torch.cat(scores)
