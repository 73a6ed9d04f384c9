"""The generation loop, in tokens: prompts in, one more token for each of them a step."""

from __future__ import annotations

import contextlib
import warnings
from collections import deque
from collections.abc import Collection, Generator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from ..graphs import GraphedDecode, PendingTokens
from ..models import CausalLM
from ..nn import KVCache
from ..nn.kv_cache import CacheDtypes
from .sampling import Sampler, SamplingParams

PREFILL_CHUNK = 512  # tokens of each prompt at a time; bounds what their activations take
WORTH_CAPTURING = 32  # tokens; a capture takes as long as some eager steps


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
    graphed: bool | GraphedDecode | None = None,
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
        graphed: whether decoding goes through a `GraphedDecode`, with the same tokens; None: on a
            GPU, where more than a few tokens are wanted. Or one of this model whose captures are to
            be used again: no row of it may be decoding, and it brings its own context and cache
            (tokens are the same if one of its batch sizes is the number of prompts).
            A repeat penalty and logit processors need the tokens on the host between any two steps:
            decoding is eager then, with a warning if it was asked to be graphed.

    Yields:
        The same list of generations after every step, in the order of the prompts.

    Raises:
        ValueError: there are no prompts, one is empty, or one is longer than the context; or the
            GraphedDecode is another model's, is in use, or has too few rows or too little room.
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
    needed = max(needed, 1)
    sampler = Sampler(params, len(generations), model.device)
    if graphed is None:
        graphed = model.device.type == "cuda" and max(limits) >= WORTH_CAPTURING
        graphed = graphed and not sampler.needs_history
    elif graphed is not False and sampler.needs_history:
        warnings.warn(
            "decoding runs eagerly: a repeat penalty needs the tokens between any two steps, and "
            "so do logit processors",
            RuntimeWarning,
            stacklevel=2,
        )
        graphed = False
    if graphed is True:
        batch = len(generations)
        graphed = GraphedDecode(model, batch, needed, cache_dtype=cache_dtype, buckets=[batch])
    if isinstance(graphed, GraphedDecode):
        _check_graphed(graphed, model, len(generations), needed)
        cache = graphed.begin(0, len(generations))
    else:
        cache = model.new_cache(len(generations), needed, cache_dtype)
    hidden = prefill(model, [g.prompt for g in generations], cache, prefill_chunk)
    ends = frozenset() if params.ignore_eos else frozenset(eog_ids)
    filled = graphed if isinstance(graphed, GraphedDecode) else cache
    yield from continued(model, filled, sampler, hidden, generations, limits, ends)


def continued(
    model: CausalLM,
    filled: KVCache | GraphedDecode,
    sampler: Sampler,
    hidden: Tensor,
    generations: list[Generation],
    limits: Sequence[int],
    ends: frozenset[int],
) -> Generator[list[Generation], None, None]:
    """Continue prompts whose keys and values are there already; inside `inference_mode`.

    Args:
        model: the model.
        filled: a cache of the prompts alone, or a GraphedDecode that has them in its first rows.
        sampler: how to choose tokens; draws once a step.
        hidden: [B, C], as `prefill` returned it.
        generations: B of them, without tokens.
        limits: the most tokens of each, 1 or more, the last of which needs no room.
        ends: tokens that end a generation.

    Yields:
        The generations after every step; the step of a token has put the one before it, of the same
        prompt, into the cache.
    """
    if isinstance(filled, GraphedDecode):
        steps = _graphed_steps(filled, model, sampler, hidden, generations, limits)
    else:
        steps = _steps(filled, model, sampler, hidden, generations)
    with contextlib.closing(steps):
        for tokens in steps:
            for generation, limit, token in zip(generations, limits, tokens, strict=True):
                _append(generation, limit, token, ends)
            yield generations
            if all(g.finish_reason for g in generations):
                return


def _steps(
    cache: KVCache,
    model: CausalLM,
    sampler: Sampler,
    hidden: Tensor,
    generations: Sequence[Generation],
) -> Generator[list[int], None, None]:
    """The next token of each prompt, of those that have ended any; step by step, without end."""
    running: Tensor | None = None
    while True:
        histories = [g.prompt + g.tokens for g in generations] if sampler.needs_history else []
        chosen = sampler(model.logits(hidden), histories)
        yield chosen.tolist()
        going = [g.finish_reason is None for g in generations]
        if not all(going):
            running = torch.tensor(going, dtype=torch.int64, device=model.device)
        step = cache.advance(1, running)
        hidden = model.hidden(chosen[:, None], step, cache)[:, -1]


def _graphed_steps(
    decode: GraphedDecode,
    model: CausalLM,
    sampler: Sampler,
    hidden: Tensor,
    generations: Sequence[Generation],
    limits: Sequence[int],
) -> Generator[list[int], None, None]:
    """The same through a GraphedDecode; a step starts before the tokens of the last are read.

    In the end the sampler has drawn as often as it would have in `_steps`.
    """
    chosen = sampler(model.logits(hidden), [])
    rows = range(len(generations))
    decode.join(rows, chosen, [len(g.prompt) for g in generations], sampler.rows)
    draws = 0
    try:
        tokens = chosen.tolist()
        yield tokens
        started: deque[PendingTokens] = deque()
        while True:
            while len(started) < 2:
                # Those whose tokens are at the limit with what is under way have had their last.
                room = [limits[r] - len(generations[r].tokens) - len(started) for r in rows]
                done = [r for r in decode.rows if generations[r].finish_reason or room[r] <= 0]
                decode.leave(done)
                if not decode.rows:
                    break
                started.append(decode.step())
            if not started:
                return
            step = started.popleft()
            draws += 1
            for row, token in zip(step.rows, step.wait(), strict=True):
                tokens[row] = token
            yield tokens
    finally:
        decode.leave(decode.rows)
        sampler.rows.step.add_(draws)


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


def _check_graphed(decode: GraphedDecode, model: CausalLM, rows: int, tokens: int) -> None:
    if decode.model is not model:
        raise ValueError("the GraphedDecode is of another model")
    if decode.rows:
        raise ValueError(f"rows {[*decode.rows]} of the GraphedDecode are decoding already")
    cache = decode.cache
    if cache.batch_size < rows or cache.max_seq_len < tokens:
        raise ValueError(
            f"{rows} prompts need {rows} rows of {tokens} tokens, but the GraphedDecode has "
            f"{cache.batch_size} of {cache.max_seq_len}"
        )


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
