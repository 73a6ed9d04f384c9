"""How far the predictions of two models are apart over a text."""

from __future__ import annotations

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
    found: list[Tensor] = []
    for index, window in enumerate(parts):
        found.append(_scores(a, b, torch.tensor([window]), ctx_size // 2))
        yield _summary(index + 1, len(parts), torch.cat(found, 1))


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


def _summary(chunk: int, chunks: int, scores: Tensor) -> Divergence:
    kl, same, first, second = scores
    count = scores.shape[1]
    return Divergence(
        chunk=chunk,
        chunks=chunks,
        positions=count,
        kl=kl.mean().item(),
        kl_error=kl.std(correction=0).item() / math.sqrt(max(count - 1, 1)),
        kl_median=kl.quantile(0.5).item(),
        kl_99=kl.quantile(0.99).item(),
        kl_max=kl.max().item(),
        same_top=same.mean().item(),
        perplexity_a=math.exp(-first.mean().item()),
        perplexity_b=math.exp(-second.mean().item()),
    )
