"""The generation loop, in tokens: prompts in, one more token for each of them a step."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..models import CausalLM
from ..nn import KVCache
from ..nn.kv_cache import CacheDtypes
from .sampling import Sampler, SamplingParams

PREFILL_CHUNK = 512  # tokens of each prompt at a time; bounds what their activations take


@dataclass
class Generation:
    """One prompt and what followed it so far.

    Attributes:
        prompt: the prompt's tokens.
        tokens: the generated ones, without the token that ended the generation.
        finish_reason: None while it goes on, "stop" if the model or a stop text ended it, "length"
            if `max_tokens` or the context did. Setting it ends the generation.
    """

    prompt: list[int]
    tokens: list[int] = field(default_factory=list)
    finish_reason: Literal["stop", "length"] | None = None


@torch.inference_mode()
def generate_tokens(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    *,
    eog_ids: Collection[int] = (),
    ctx_size: int | None = None,
    cache_dtype: CacheDtypes | None = None,
    prefill_chunk: int = PREFILL_CHUNK,
) -> Generator[list[Generation], None, None]:
    """Continue prompts, equal or different in length, as one batch.

    Args:
        model: the model.
        prompts: the tokens of each prompt.
        params: how to choose tokens and when to stop (`stop` needs text and is not looked at here).
        eog_ids: tokens that end a generation.
        ctx_size: tokens that prompt and continuation may have together; by default as many as the
            model was made for.
        cache_dtype: the dtype of the KV cache, or a name such as "q8_0", or a pair of them, of keys
            and of values.
        prefill_chunk: tokens of each prompt that are computed at a time.

    Yields:
        The same list of generations after every step, in the order of the prompts.

    Raises:
        ValueError: there are no prompts, one is empty, or one is longer than the context.
    """
    ctx_size = ctx_size or model.config.context_length
    generations = [Generation(list(prompt)) for prompt in prompts]
    _check_prompts(generations, ctx_size)
    # The last token that fits is never computed with, so it needs no place in the cache.
    limits = [ctx_size - len(g.prompt) + 1 for g in generations]
    if params.max_tokens >= 0:
        limits = [min(limit, params.max_tokens) for limit in limits]
    if max(limits) == 0:
        for generation in generations:
            generation.finish_reason = "length"
        yield generations
        return
    needed = max(len(g.prompt) + n - 1 for g, n in zip(generations, limits, strict=True))
    cache = model.new_cache(len(generations), max(needed, 1), cache_dtype)
    sampler = Sampler(params, len(generations), model.device)
    ends = frozenset() if params.ignore_eos else frozenset(eog_ids)
    hidden = prefill(model, [g.prompt for g in generations], cache, prefill_chunk)
    running: Tensor | None = None
    while True:
        histories = [g.prompt + g.tokens for g in generations] if params.repeat_penalty != 1 else []
        chosen = sampler(model.logits(hidden), histories)
        for generation, limit, token in zip(generations, limits, chosen.tolist(), strict=True):
            _append(generation, limit, token, ends)
        yield generations
        going = [g.finish_reason is None for g in generations]
        if not any(going):
            return
        if not all(going):
            running = torch.tensor(going, dtype=torch.int64, device=model.device)
        step = cache.advance(1, running)
        hidden = model.hidden(chosen[:, None], step, cache)[:, -1]


def prefill(
    model: CausalLM,
    prompts: Sequence[Sequence[int]],
    cache: KVCache,
    chunk: int = PREFILL_CHUNK,
) -> Tensor:
    """Fill the cache with prompts -> the output of the last layer at their ends [B, C].

    Shorter prompts are padded on the right; their padding is neither kept nor seen.
    """
    device = model.device
    lengths = [len(prompt) for prompt in prompts]
    longest = max(lengths)
    padded = [list(prompt) + [0] * (longest - len(prompt)) for prompt in prompts]
    ids = torch.tensor(padded, dtype=torch.int64, device=device)
    ragged = min(lengths) < longest
    length = torch.tensor(lengths, dtype=torch.int64, device=device)
    rows = torch.arange(len(prompts), device=device)
    last: Tensor | None = None
    for start in range(0, longest, chunk):
        piece = ids[:, start : start + chunk]
        size = piece.shape[1]
        counts = (length - start).clamp(0, size) if ragged else None
        hidden = model.hidden(piece, cache.advance(size, counts), cache)
        ends = length - 1 - start
        found = hidden[rows, ends.clamp(0, size - 1)]
        here = (ends >= 0) & (ends < size)
        last = found if last is None else torch.where(here[:, None], found, last)
    assert last is not None
    return last


def _append(generation: Generation, limit: int, token: int, ends: frozenset[int]) -> None:
    if generation.finish_reason is not None:
        return
    if token in ends:
        generation.finish_reason = "stop"
        return
    generation.tokens.append(token)
    if len(generation.tokens) >= limit:
        generation.finish_reason = "length"


def _check_prompts(generations: Sequence[Generation], ctx_size: int) -> None:
    if not generations:
        raise ValueError("prompts must hold at least one prompt")
    for generation in generations:
        length = len(generation.prompt)
        if length == 0:
            raise ValueError("a prompt has no tokens; it needs at least one")
        if length > ctx_size:
            raise ValueError(
                f"the prompt has {length} tokens, but the context holds {ctx_size}; "
                "shorten the prompt or raise the context size"
            )
