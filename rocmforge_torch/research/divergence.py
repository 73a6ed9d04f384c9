"""How far the predictions of two models are apart over a text."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..generate.perplexity import windows
from ..models import CausalLM
from ..nn import uncached_step

LOGIT_ROWS = 16  # positions whose distributions exist at once, in float64


@dataclass(frozen=True)
class Divergence:
    """What was found after some windows, over the second half of each, as of `perplexity`.

    Attributes:
        chunk, chunks: windows done, and windows in all.
        positions: how many positions were scored.
        kl: Kullback-Leibler divergence of b's next-token distribution from a's, sum of
            p_a (ln p_a - ln p_b), the mean of all positions, in nats; kl_error: its standard error.
        kl_median, kl_99, kl_max: the median, the 99th percentile and the largest.
        same_top: the part of positions where both find the same token most likely.
        perplexity_a, perplexity_b: of the text by each model.
    """

    chunk: int
    chunks: int
    positions: int
    kl: float
    kl_error: float
    kl_median: float
    kl_99: float
    kl_max: float
    same_top: float
    perplexity_a: float
    perplexity_b: float


def divergence(
    a: CausalLM, b: CausalLM, text: str, ctx_size: int = 512, chunks: int | None = None
) -> Iterator[Divergence]:
    """Compare the predictions of b with those of a over a text, cut as by `perplexity`.

    Args:
        a: the model that is taken for right.
        b: the other one, with the same vocabulary.
        text: the text, which a's tokenizer cuts.
        ctx_size: tokens of a window.
        chunks: at most so many windows.

    Yields:
        The running figures after every window.

    Raises:
        ValueError: the vocabularies differ, ctx_size is less than 4, chunks is not positive, or the
            text fills no window.
    """
    tokens = [model.file.metadata.get("tokenizer.ggml.tokens", ()) for model in (a, b)]
    if a.vocab_size != b.vocab_size or tokens[0] != tokens[1]:
        raise ValueError("the models have different vocabularies: their predictions do not compare")
    ids, bos = a.tokenizer.encode(text), a.tokenizer.bos_id
    return token_divergence(a, b, ids, bos if ids and ids[0] == bos else None, ctx_size, chunks)


@torch.inference_mode()
def token_divergence(
    a: CausalLM,
    b: CausalLM,
    tokens: Sequence[int],
    bos_id: int | None = None,
    ctx_size: int = 512,
    chunks: int | None = None,
) -> Iterator[Divergence]:
    """`divergence` over tokens; `bos_id`, if any, replaces the first token of every window."""
    parts = windows(tokens, bos_id, ctx_size, chunks)
    found = _Running(len(parts))
    for window in parts:
        found.add(_scores(a, b, torch.tensor([window]), ctx_size // 2))
        yield found.summary()


def _scores(a: CausalLM, b: CausalLM, ids: Tensor, first: int) -> Tensor:
    """For positions `first` to T - 2: divergence, whether the top tokens agree, and the next
    token's log-probability by each model; float64 [4, positions] on the CPU."""
    states = []
    for model in (a, b):
        here = ids.to(model.device)
        states.append(model.hidden(here, uncached_step(here), None)[0, first:-1])
    following = ids[0, first + 1 :]
    parts = []
    for start in range(0, len(following), LOGIT_ROWS):
        rows = slice(start, start + LOGIT_ROWS)
        p, q = (
            model.logits(hidden[rows]).double().log_softmax(-1).cpu()
            for model, hidden in zip((a, b), states, strict=True)
        )
        chosen = following[rows, None]
        # A token that a rules out adds nothing, whatever b thinks of it.
        terms = torch.where(p == -math.inf, 0.0, p.exp() * (p - q))
        same = (p.argmax(-1) == q.argmax(-1)).double()
        parts.append(
            torch.stack([terms.sum(-1), same, *(x.gather(-1, chosen)[:, 0] for x in (p, q))])
        )
    return torch.cat(parts, 1)


class _Quantile:
    """A quantile of numbers that come one by one, between the nearest two as numpy takes it."""

    def __init__(self, part: float) -> None:
        self.part = part
        self.low: list[float] = []  # a heap of the smaller numbers, negated
        self.high: list[float] = []  # a heap of the others

    def add(self, number: float) -> None:
        heapq.heappush(self.high, -heapq.heappushpop(self.low, -number))
        count = len(self.low) + len(self.high)
        if len(self.low) <= self.part * (count - 1):
            heapq.heappush(self.low, -heapq.heappop(self.high))

    def value(self) -> float:
        below = -self.low[0]
        place = self.part * (len(self.low) + len(self.high) - 1) - (len(self.low) - 1)
        if not place or self.high[0] == below:
            return below
        return below + place * (self.high[0] - below)


class _Running:
    """Sums over scores float64 [4, positions], a window at a time; no window is kept."""

    def __init__(self, chunks: int) -> None:
        self.chunk, self.chunks = 0, chunks
        self.positions = 0
        self.sums = torch.zeros(4, dtype=torch.float64)
        self.squares = 0.0  # of the divergences' distances from their mean
        self.largest = -math.inf
        self.median, self.percentile = _Quantile(0.5), _Quantile(0.99)

    def add(self, scores: Tensor) -> None:
        kl, count = scores[0], scores.shape[1]
        mean = kl.mean().item()
        if self.chunk:
            apart = mean - self.sums[0].item() / self.positions
            self.squares += apart**2 * self.positions * count / (self.positions + count)
        self.squares += (kl - mean).square().sum().item()
        self.sums += scores.sum(1)
        self.chunk += 1
        self.positions += count
        self.largest = max(self.largest, kl.max().item())
        for number in kl.tolist():
            self.median.add(number)
            self.percentile.add(number)

    def summary(self) -> Divergence:
        kl, same, first, second = (self.sums / self.positions).tolist()
        deviation = math.sqrt(self.squares / self.positions)
        return Divergence(
            chunk=self.chunk,
            chunks=self.chunks,
            positions=self.positions,
            kl=kl,
            kl_error=deviation / math.sqrt(max(self.positions - 1, 1)),
            # What is no number has no order.
            kl_median=math.nan if math.isnan(kl) else self.median.value(),
            kl_99=math.nan if math.isnan(kl) else self.percentile.value(),
            kl_max=math.nan if math.isnan(kl) else self.largest,
            same_top=same,
            perplexity_a=math.exp(-first),
            perplexity_b=math.exp(-second),
        )
