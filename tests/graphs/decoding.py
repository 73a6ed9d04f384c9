"""Rows of a `GraphedDecode` as a scheduler uses them, and what each must have written."""

from __future__ import annotations

from typing import Any

import torch

from rocmforge_torch.generate import Sampler, SamplingParams, generate_tokens
from rocmforge_torch.generate.loop import prefill
from rocmforge_torch.graphs import GraphedDecode, PendingTokens
from rocmforge_torch.models import CausalLM

PROMPTS = [[5, 9, 33, 2, 71, 8, 8, 40, 12, 3, 60], [7], [90, 14, 3, 3, 21], [1, 2, 3, 4, 5, 6, 7]]


def warm(seed: int, max_tokens: int = -1) -> SamplingParams:
    """Parameters under which every wrong number shows."""
    return SamplingParams(temperature=1.2, seed=seed, max_tokens=max_tokens)


def alone(model: CausalLM, prompt: list[int], seed: int, count: int, dtype: Any) -> list[int]:
    """What the eager loop writes after one prompt."""
    params = warm(seed, count)
    *_, (generation,) = generate_tokens(model, [prompt], params, cache_dtype=dtype, graphed=False)
    return generation.tokens


class Rows:
    """Starts and ends rows, and collects their tokens.

    Attributes:
        tokens: of each row that decodes or did, since it began.
    """

    def __init__(self, decode: GraphedDecode) -> None:
        self.decode = decode
        self.tokens: dict[int, list[int]] = {}

    @torch.inference_mode()
    def start(self, row: int, prompt: list[int], seed: int, chunk: int = 512) -> None:
        model: Any = self.decode.model
        hidden = prefill(model, [prompt], self.decode.begin(row), chunk)
        self.join(row, hidden, len(prompt), seed)

    @torch.inference_mode()
    def join(self, row: int, hidden: torch.Tensor, length: int, seed: int) -> None:
        model = self.decode.model
        sampler = Sampler(warm(seed), 1, model.device)
        chosen = sampler(model.logits(hidden), [])
        self.decode.join([row], chosen, [length], sampler.rows)
        self.tokens[row] = chosen.tolist()

    def take(self, pending: PendingTokens) -> None:
        for row, token in zip(pending.rows, pending.wait(), strict=True):
            self.tokens[row].append(token)

    def steps(self, count: int) -> None:
        for _ in range(count):
            self.take(self.decode.step())
