"""Prompts to text: whole, in batches, or streamed as it is written."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from ..models import CausalLM
from ..nn.kv_cache import CacheDtypes
from .loop import Generation, generate_tokens
from .sampling import SamplingParams
from .stop import StopFilter

Prompt = str | Sequence[int] | Tensor


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


class TextBatch(Iterator[list[str]]):
    """The texts after some prompts, as they are written: one new piece for each of them a step.

    Pieces consist of whole characters; one may be empty.

    Attributes:
        generations: prompt, tokens so far and why it ended, for each prompt.
    """

    def __init__(
        self,
        model: CausalLM,
        prompts: Sequence[Prompt],
        params: SamplingParams | None = None,
        *,
        ctx_size: int | None = None,
        cache_dtype: CacheDtypes | None = None,
    ) -> None:
        """See `generate_tokens` for arguments and errors; the first step raises the latter.

        Raises:
            ValueError: a prompt is no text and no list of tokens.
        """
        self.generations = [Generation(encode_prompt(model, prompt)) for prompt in prompts]
        self._steps = self._run(model, params or SamplingParams(), ctx_size, cache_dtype)

    def __next__(self) -> list[str]:
        return next(self._steps)

    def close(self) -> None:
        """End the generation and free its cache."""
        self._steps.close()

    def _run(
        self,
        model: CausalLM,
        params: SamplingParams,
        ctx_size: int | None,
        cache_dtype: CacheDtypes | None,
    ) -> Generator[list[str], None, None]:
        tokenizer = model.tokenizer
        steps = generate_tokens(
            model,
            [generation.prompt for generation in self.generations],
            params,
            eog_ids=tokenizer.eog_ids,
            ctx_size=ctx_size,
            cache_dtype=cache_dtype,
        )
        writers = [tokenizer.stream(generation.prompt) for generation in self.generations]
        filters = [StopFilter(params.stop) for _ in writers]
        written = [0] * len(writers)
        for self.generations in steps:
            pieces = []
            for row, generation in enumerate(self.generations):
                new = generation.tokens[written[row] :]
                written[row] += len(new)
                pieces.append(filters[row].push("".join(map(writers[row].push, new))))
                if filters[row].stopped:
                    generation.finish_reason = "stop"
            yield pieces
        ends = [writer.finish() for writer in writers]
        yield [stop.push(end) + stop.finish() for stop, end in zip(filters, ends, strict=True)]


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
        cache_dtype: CacheDtypes | None = None,
    ) -> None:
        """As `TextBatch`, of one prompt."""
        self._batch = TextBatch(model, [prompt], params, ctx_size=ctx_size, cache_dtype=cache_dtype)

    @property
    def generation(self) -> Generation:
        return self._batch.generations[0]

    def __next__(self) -> str:
        while True:
            (piece,) = next(self._batch)
            if piece:
                return piece

    def close(self) -> None:
        """End the generation and free its cache."""
        self._batch.close()


def complete(
    model: CausalLM,
    prompts: Sequence[Prompt],
    params: SamplingParams | None = None,
    *,
    ctx_size: int | None = None,
    cache_dtype: CacheDtypes | None = None,
) -> list[Completion]:
    """Continue prompts as one batch; see `generate_tokens` for arguments and errors."""
    batch = TextBatch(model, prompts, params, ctx_size=ctx_size, cache_dtype=cache_dtype)
    texts = ["".join(pieces) for pieces in zip(*batch, strict=True)]
    return [
        Completion(text, g.tokens, len(g.prompt), g.finish_reason or "length")
        for text, g in zip(texts, batch.generations, strict=True)
    ]


def generate(
    model: CausalLM,
    prompt: Prompt | Sequence[str] | Sequence[Sequence[int]],
    params: SamplingParams | None = None,
    *,
    ctx_size: int | None = None,
    cache_dtype: CacheDtypes | None = None,
    **options: Any,
) -> str | list[str]:
    """What follows a prompt, or each prompt of a list.

    Args:
        model: the model.
        prompt: a text or its tokens (a list or int tensor [T]); or a list of such, or an int tensor
            [B, T].
        params: how to choose tokens and when to stop; or give its fields as `options`.
        ctx_size: tokens that prompt and continuation may have together.
        cache_dtype: as in `generate_tokens`.
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
    """The tokens of a prompt; the text of a control token in it becomes that token.

    Raises:
        ValueError: the prompt holds something else than token ids of the vocabulary.
    """
    if isinstance(prompt, str):
        return list(model.tokenizer.encode(prompt, parse_special=True))
    tokens = prompt.tolist() if isinstance(prompt, Tensor) else list(prompt)
    for token in tokens:
        if not isinstance(token, int) or not 0 <= token < model.vocab_size:
            raise ValueError(
                f"a prompt of tokens holds whole numbers from 0 to {model.vocab_size - 1}, "
                f"got {token!r}"
            )
    return tokens
