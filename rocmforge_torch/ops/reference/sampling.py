"""Choice of the next token: top-k, top-p, min-p, temperature, and a random choice without state.

The random numbers are Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
2011) of (seed, step, token id), the choice is by the Gumbel-max trick: the token with the largest
logit / temperature + g, where g = -log(-log(u)), is distributed as softmax(logit / temperature).
Each token's g depends on nothing but its id, so the order in which tokens are visited does not
matter and every device makes the same choice. All of it in float64, for the same reason.
"""

from __future__ import annotations

import torch
from torch import Tensor

MASK32 = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10


def sample(
    logits: Tensor,
    temperature: Tensor,
    top_k: Tensor,
    top_p: Tensor,
    min_p: Tensor,
    seed: Tensor,
    step: Tensor,
) -> Tensor:
    score = logits.double().masked_fill(logits.isnan(), float("-inf"))
    score, token = score.sort(dim=-1, descending=True, stable=True)  # ties: the lower id first
    keep = _kept(score, top_k, top_p.double(), min_p.double())

    # Random32 -> u in (0, 1), never 0 or 1.
    u = (philox(seed, step, token).double() + 0.5) * 2.0**-32
    gumbel = -torch.log(-torch.log(u))
    noisy = (score / temperature.double()[:, None] + gumbel).masked_fill(~keep, float("-inf"))
    rank = noisy.argmax(dim=-1, keepdim=True)
    # No temperature, or nothing to weigh (all are -inf, or one is +inf): the first maximum.
    greedy = (temperature <= 0)[:, None] | ~score[:, :1].isfinite()
    return token.gather(1, rank.masked_fill(greedy, 0)).flatten()


def _kept(score: Tensor, top_k: Tensor, top_p: Tensor, min_p: Tensor) -> Tensor:
    """Which of the sorted scores [B, V] survive the filters; the first always does."""
    below_max = score - score[:, :1]
    rank = torch.arange(score.shape[1], device=score.device)
    keep = (top_k <= 0)[:, None] | (rank < top_k[:, None])
    weight = below_max.exp().masked_fill(~keep, 0.0)
    before = weight.cumsum(-1) - weight  # the smallest head of the list that reaches top_p
    keep &= (top_p >= 1)[:, None] | (before < top_p[:, None] * weight.sum(-1, keepdim=True))
    keep &= (min_p <= 0)[:, None] | (below_max >= min_p.log()[:, None])
    return keep | (rank == 0)


def philox(seed: Tensor, step: Tensor, token: Tensor) -> Tensor:
    """First word of Philox4x32-10; key = seed [B], counter = (token [B, V], step [B]).

    64-bit numbers are split into (low, high) words.
    """
    counter = (*_words(token), *_words(step[:, None].expand_as(token)))
    return philox4x32(counter, _words(seed[:, None]))[0]


def philox4x32(
    counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The block function: ten rounds over four 32-bit words, each in an int64 tensor."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        high0, low0 = _multiply(MULTIPLIERS[0], c0)
        high1, low1 = _multiply(MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = (k0 + WEYL[0]) & MASK32, (k1 + WEYL[1]) & MASK32
    return c0, c1, c2, c3


def _words(x: Tensor) -> tuple[Tensor, Tensor]:
    return x & MASK32, (x >> 32) & MASK32


def _multiply(a: int, b: Tensor) -> tuple[Tensor, Tensor]:
    """(high, low) words of a 32 x 32 bit product, in halves of b so that int64 never overflows."""
    low, high = a * (b & 0xFFFF), a * (b >> 16)
    return (high + (low >> 16)) >> 16, (((high & 0xFFFF) << 16) + low) & MASK32
