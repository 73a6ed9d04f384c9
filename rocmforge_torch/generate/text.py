"""Prompts to text: whole, in batches, or streamed as it is written."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ..models import CausalLM
from .loop import Generation, generate_tokens
from .sampling import SamplingParams

Prompt = str | Sequence[int] | Tensor
TAIL_TOKENS = 8  # beside one for each character: tokens looked at for a stop text that just ended


@dataclass(frozen=True)
class Completion:
    """What followed a prompt.

    Attributes:
        text: the text, without a stop text.
        tokens: its tokens (with those of a stop text).
        prompt_tokens: how many tokens the prompt had.
        finish_reason: "stop" if the model or a stop text ended it, "length" if a limit did.
    """

    text: str
    tokens: list[int]
    prompt_tokens: int
    finish_reason: Literal["stop", "length"]


class TextStream(Iterator[str]):
    """The text after one prompt, in pieces of whole characters, as it is written.

    Attributes:
        generation: prompt, tokens so far, and why it ended.
    """

    def __init__(
        self,
        model: CausalLM,
        prompt: Prompt,
        params: SamplingParams | None = None,
        *,
        ctx_size: int | None = None,
        cache_dtype: torch.dtype | None = None,
    ) -> None:
        """As `generate_tokens`, which also names the errors; the first piece comes when asked for.

        Raises:
            ValueError: the prompt is no text and no list of tokens.
        """
        self._params = params or SamplingParams()
        self.generation = Generation(encode_prompt(model, prompt))
        self._steps = generate_tokens(
            model,
            [self.generation.prompt],
            self._params,
            eog_ids=model.tokenizer.eog_ids,
            ctx_size=ctx_size,
            cache_dtype=cache_dtype,
        )
        self._pieces = self._until_stop(model.tokenizer.stream(self._tokens()))

    def __next__(self) -> str:
        return next(self._pieces)

    def _tokens(self) -> Iterator[int]:
        for generations in self._steps:
            self.generation = generations[0]
            if self.generation.finish_reason != "stop" and self.generation.tokens:
                yield self.generation.tokens[-1]

    def _until_stop(self, pieces: Iterator[str]) -> Iterator[str]:
        """Pass pieces on, but nothing that could become a stop text."""
        held = ""
        for piece in pieces:
            held += piece
            end = find_stop(held, self._params.stop)
            if end is not None:
                self.generation.finish_reason = "stop"
                self._steps.close()
                held = held[:end]
                break
            keep = max((_overlap(held, stop) for stop in self._params.stop), default=0)
            if len(held) > keep:
                yield held[: len(held) - keep]
                held = held[len(held) - keep :]
        if held:
            yield held


def complete(
    model: CausalLM,
    prompts: Sequence[Prompt],
    params: SamplingParams | None = None,
    *,
    ctx_size: int | None = None,
    cache_dtype: torch.dtype | None = None,
) -> list[Completion]:
    """Continue prompts as one batch; see `generate_tokens` for arguments and errors."""
    params = params or SamplingParams()
    tokenizer = model.tokenizer
    steps = generate_tokens(
        model,
        [encode_prompt(model, prompt) for prompt in prompts],
        params,
        eog_ids=tokenizer.eog_ids,
        ctx_size=ctx_size,
        cache_dtype=cache_dtype,
    )
    tail = max(map(len, params.stop), default=0) + TAIL_TOKENS
    generations: list[Generation] = []
    for generations in steps:
        for generation in generations:
            if params.stop and generation.finish_reason is None:
                end = find_stop(tokenizer.decode(generation.tokens[-tail:]), params.stop)
                generation.finish_reason = None if end is None else "stop"
    completions = []
    for generation in generations:
        text = tokenizer.decode(generation.tokens)
        end = find_stop(text, params.stop)
        reason = generation.finish_reason or "length"
        completions.append(
            Completion(
                text[:end],
                generation.tokens,
                len(generation.prompt),
                reason if end is None else "stop",
            )
        )
    return completions


def generate(
    model: CausalLM,
    prompt: Prompt | Sequence[str] | Sequence[Sequence[int]],
    params: SamplingParams | None = None,
    *,
    ctx_size: int | None = None,
    cache_dtype: torch.dtype | None = None,
    **options: Any,
) -> str | list[str]:
    """What follows a prompt, or each prompt of a list.

    Args:
        model: the model.
        prompt: a text or its tokens (a list or int tensor [T]); or a list of such, or an int tensor
            [B, T].
        params: how to choose tokens and when to stop; or give its fields as `options`.
        ctx_size: tokens that prompt and continuation may have together.
        cache_dtype: the dtype of the KV cache.
        options: fields of `SamplingParams`.

    Raises:
        TypeError: an option is no field of `SamplingParams`, or both are given.
        ValueError: a parameter is out of its range, or a prompt is empty or too long.
    """
    params = sampling_params(params, options)
    single = isinstance(prompt, str) or (
        prompt.dim() == 1
        if isinstance(prompt, Tensor)
        else bool(prompt) and isinstance(prompt[0], int)
    )
    prompts: Any = [prompt] if single else prompt
    done = complete(model, prompts, params, ctx_size=ctx_size, cache_dtype=cache_dtype)
    return done[0].text if single else [completion.text for completion in done]


def sampling_params(params: SamplingParams | None, options: dict[str, Any]) -> SamplingParams:
    """The parameters that were given, in one of the two ways.

    Raises:
        TypeError: an option has no such name, or both ways were used.
        ValueError: a parameter is out of its range.
    """
    if params is not None and options:
        raise TypeError(f"give params or {', '.join(options)}, not both")
    return params or SamplingParams(**options)


def encode_prompt(model: CausalLM, prompt: Prompt) -> list[int]:
    """The tokens of a prompt.

    Raises:
        ValueError: the prompt holds something else than token ids of the vocabulary.
    """
    if isinstance(prompt, str):
        return list(model.tokenizer.encode(prompt))
    tokens = prompt.tolist() if isinstance(prompt, Tensor) else list(prompt)
    for token in tokens:
        if not isinstance(token, int) or not 0 <= token < model.vocab_size:
            raise ValueError(
                f"a prompt of tokens holds whole numbers from 0 to {model.vocab_size - 1}, "
                f"got {token!r}"
            )
    return tokens


def find_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first of the stop texts begins, or None."""
    return min((at for at in map(text.find, stops) if at >= 0), default=None)


def _overlap(text: str, stop: str) -> int:
    """The length of the longest end of `text` that `stop` begins with."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
