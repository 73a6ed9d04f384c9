"""What a decoding step reads and writes, in tensors whose addresses never change."""

from __future__ import annotations

import torch
from torch import Tensor

from ..nn import KVCache, SamplingRows, Step

# Rows of `numbers`.
TOKEN, LENGTH, DRAWN, TOP_K, SEED = range(5)

RING = 2  # so many steps can be under way before the tokens of the first are read


class DecodeState:
    """The rows of a cache while they decode.

    Attributes:
        cache: keys and values of R rows; its `lengths` are a row of `numbers`.
        numbers: int64 [5, R]: of each row the token that comes next into the cache, how many are in
            it, how many were drawn, and two parameters of sampling.
        fractions: float32 [3, R]: temperature, top_p and min_p.
        plan: int64 [3, R], of which a step over B rows reads [:, :B]: the rows of the cache, 1 for
            those that decode and 0 for others that only fill the batch, and where each begins in
            the cache (for the others so far below 0 that no slot of theirs is one).
        ring: int64 [RING, R]: the tokens of the last steps, each in the order of its batch.
        turn: int64 [1]: which row of `ring` the next step writes.
    """

    def __init__(self, cache: KVCache) -> None:
        rows, device = cache.batch_size, cache.lengths.device
        self.cache = cache
        self.numbers = torch.zeros(5, rows, dtype=torch.int64, device=device)
        self.fractions = torch.zeros(3, rows, dtype=torch.float32, device=device)
        self.plan = torch.zeros(3, rows, dtype=torch.int64, device=device)
        self.ring = torch.zeros(RING, rows, dtype=torch.int64, device=device)
        self.turn = torch.zeros(1, dtype=torch.int64, device=device)
        cache.lengths = self.numbers[LENGTH]

    def plan_of(self, decoding: tuple[int, ...]) -> list[list[int]]:
        """The numbers of `plan` with these rows first."""
        room = self.cache.max_seq_len
        others = [row for row in range(self.cache.batch_size) if row not in decoding]
        return [
            [*decoding, *others],
            [1] * len(decoding) + [0] * len(others),
            [row * room for row in decoding] + [-room - 1] * len(others),
        ]

    def fill(self, rows: Tensor, tokens: Tensor, lengths: Tensor, sampling: SamplingRows) -> None:
        """Set everything about some rows; tensors [N]."""
        s = sampling
        numbers = torch.stack([tokens, lengths, s.step, s.top_k, s.seed])
        self.numbers.index_copy_(1, rows, numbers)
        self.fractions.index_copy_(1, rows, torch.stack([s.temperature, s.top_p, s.min_p]))

    def before(self, size: int) -> tuple[Tensor, Step, SamplingRows]:
        """Tokens [B, 1], where they stand, and how their successors are chosen."""
        rows, decoding, first = self.plan[:, :size].unbind(0)
        token, length, drawn, top_k, seed = self.numbers.index_select(1, rows).unbind(0)
        temperature, top_p, min_p = self.fractions.index_select(1, rows).unbind(0)
        step = Step(
            positions=length[:, None],
            seq_lens=((length + 1) * decoding).to(torch.int32),
            slots=(first + length)[:, None],
            context=self.cache.max_seq_len,
            block_table=rows.to(torch.int32)[:, None],
        )
        return token[:, None], step, SamplingRows(temperature, top_k, top_p, min_p, seed, drawn)

    def after(self, size: int, chosen: Tensor) -> None:
        """Advance the rows that decode by the tokens chosen, int64 [B], and keep these."""
        rows, decoding, _ = self.plan[:, :size].unbind(0)
        self.numbers[TOKEN].index_copy_(0, rows, chosen)
        self.numbers[LENGTH : DRAWN + 1].index_add_(1, rows, decoding.expand(2, -1))
        self.ring[:, :size].index_copy_(0, self.turn, chosen[None])
        self.turn.bitwise_xor_(1)  # RING is 2: 0 and 1 in turn, by one kernel
