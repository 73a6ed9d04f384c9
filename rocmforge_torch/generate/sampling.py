"""How the next token is chosen: parameters with llama.cpp's names and defaults, and the choice."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..nn import SamplingRows, sample

# (ids int64 [1, T], logits [1, V]) -> logits [1, V], as transformers' LogitsProcessor is called.
LogitProcessor = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class SamplingParams:
    """How to choose tokens, and when to stop.

    Attributes:
        temperature: 0 takes the most likely token; larger values flatten the distribution.
        top_k: only the k most likely tokens; 0 for all.
        top_p: only the smallest set of likely tokens that reaches this probability; 1 for all.
        min_p: only tokens at least this likely relative to the most likely one; 0 for all.
        repeat_penalty: scores of recent tokens are divided (or, if negative, multiplied) by it;
            1 for none.
        repeat_last_n: how many tokens count as recent.
        seed: the same seed gives the same tokens; None takes a new one each time.
        max_tokens: at most so many tokens; -1: until the model ends or the context is full.
        stop: texts that end the generation; they are not part of the result.
        ignore_eos: go on after an end-of-generation token.
        logit_processors: functions that change the scores before all else, one after the other:
            (ids int64 [1, T], logits [1, V]) -> logits [1, V], for each row by itself, with its
            prompt and its tokens so far. Those of transformers fit.
    """

    temperature: float = 0.8
    top_k: int = 40
    top_p: float = 0.95
    min_p: float = 0.05
    repeat_penalty: float = 1.0
    repeat_last_n: int = 64
    seed: int | None = None
    max_tokens: int = -1
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    logit_processors: tuple[LogitProcessor, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        _check("temperature", self.temperature, 0, math.inf)
        _check("top_k", self.top_k, 0, 2**63 - 1)
        _check("top_p", self.top_p, 0, 1)
        _check("min_p", self.min_p, 0, 1)
        _check("repeat_penalty", self.repeat_penalty, 1e-6, math.inf)
        _check("repeat_last_n", self.repeat_last_n, 0, 2**63 - 1)
        _check("max_tokens", self.max_tokens, -1, 2**63 - 1)
        if self.seed is not None:
            _check("seed", self.seed, 0, 2**63 - 1)
        if "" in self.stop:
            raise ValueError("stop must not hold an empty text")
        object.__setattr__(self, "logit_processors", tuple(self.logit_processors))
        for processor in self.logit_processors:
            if not callable(processor):
                raise ValueError(
                    f"logit_processors must be functions (ids, logits) -> logits, got {processor!r}"
                )


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most or not math.isfinite(value):
        raise ValueError(f"{name} must be between {least} and {most}, got {value}")


class Sampler:
    """Chooses one token for each of B sequences; row b uses seed + b, so that rows differ.

    Attributes:
        seed: the seed of row 0, also where the parameters named none.
        rows: the same parameters as tensors; `rows.step` counts the calls.
    """

    def __init__(
        self, params: SamplingParams, batch_size: int, device: torch.device | str = "cpu"
    ) -> None:
        def row(value: float, dtype: torch.dtype) -> Tensor:
            return torch.full((batch_size,), value, dtype=dtype, device=device)

        self.params = params
        self.seed = secrets.randbits(62) if params.seed is None else params.seed
        rows = torch.arange(batch_size, device=device)
        self.rows = SamplingRows(
            row(params.temperature, torch.float32),
            row(params.top_k, torch.int64),
            row(params.top_p, torch.float32),
            row(params.min_p, torch.float32),
            rows + min(self.seed, 2**63 - batch_size),
            row(0, torch.int64),
        )

    @property
    def needs_history(self) -> bool:
        """Whether the choice depends on the tokens so far."""
        return self._penalizes or bool(self.params.logit_processors)

    @property
    def _penalizes(self) -> bool:
        return self.params.repeat_penalty != 1 and self.params.repeat_last_n > 0

    def __call__(self, logits: Tensor, histories: Sequence[Sequence[int]]) -> Tensor:
        """logits [B, V], the tokens of each row so far -> ids int64 [B].

        Raises:
            ValueError: a logit processor returned something else than logits [1, V].
        """
        if self.params.logit_processors:
            logits = self._processed(logits, histories)
        if self._penalizes:
            logits = self._penalized(logits, histories)
        ids = sample(logits, self.rows)
        self.rows.step.add_(1)
        return ids

    def _processed(self, logits: Tensor, histories: Sequence[Sequence[int]]) -> Tensor:
        rows = []
        for scores, history in zip(logits.split(1), histories, strict=True):
            ids = torch.tensor([history], dtype=torch.int64, device=logits.device)
            for processor in self.params.logit_processors:
                given = scores.shape
                scores = processor(ids, scores)
                if not isinstance(scores, Tensor) or scores.shape != given:
                    got = list(scores.shape) if isinstance(scores, Tensor) else repr(scores)
                    raise ValueError(
                        f"logit processor {processor!r} must return logits {list(given)}, got {got}"
                    )
            rows.append(scores)
        return torch.cat(rows)

    def _penalized(self, logits: Tensor, histories: Sequence[Sequence[int]]) -> Tensor:
        logits = logits.clone()
        penalty = self.params.repeat_penalty
        for scores, history in zip(logits, histories, strict=True):
            recent = set(history[-self.params.repeat_last_n :])
            index = torch.tensor(sorted(recent), device=logits.device, dtype=torch.int64)
            old = scores[index]
            scores[index] = torch.where(old > 0, old / penalty, old * penalty)
        return logits
