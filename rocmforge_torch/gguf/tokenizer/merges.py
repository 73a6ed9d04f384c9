"""The merges that a SentencePiece vocabulary with scores stands for.

SentencePiece merges, again and again, the two neighbours whose joined text is the token with the
highest score, the leftmost where scores are equal. ``tokenizers`` merges the pair with the lowest
rank instead, so every way to write a token as two others becomes a merge, ranked by the score of
the whole.

Two pairs that make the same token share its score, and then the leftmost must win although their
ranks differ. This matters only where they overlap, as ("an", "a") and ("a", "na") do in "anana".
But a token can only ever come out of one of its pairs: nothing outside a token's span takes part in
the merges inside it, so these run as they would on the token's text alone and end with the same
pair. For tokens with overlapping pairs that text is merged here, and the other pairs are left out.
Where different tokens share a score (Llama 2's runs of spaces), the longer left part goes first,
which lets the leftmost run grow as SentencePiece does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .fields import TOKENS, key_error
from .vocabulary import Vocabulary

Ints = npt.NDArray[np.int64]
Hashes = npt.NDArray[np.uint64]

MAX_TOKEN_CHARS = 512  # SentencePiece's own limit is 16 by default
MAX_PAIRS_PER_TOKEN = 32  # on average; real vocabularies have about 2
BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial hash, modulo 2**64
MIX = np.uint64(0xBF58476D1CE4E5B9)
NONE = float("-inf")


@dataclass(frozen=True, slots=True)
class Pairs:
    """Ways to write tokens as two others: ``texts[whole] == texts[left] + texts[right]``.

    Attributes:
        whole, left, right [m]: indices of tokens.
        split [m]: the length of the left text.
    """

    whole: Ints
    left: Ints
    right: Ints
    split: Ints

    def __getitem__(self, index: npt.NDArray[np.generic]) -> Pairs:
        return Pairs(self.whole[index], self.left[index], self.right[index], self.split[index])


def derive_merges(
    vocabulary: Vocabulary, mergeable: npt.NDArray[np.bool_]
) -> list[tuple[str, str]]:
    """All merges of a vocabulary, best first.

    Args:
        mergeable [n]: the tokens that merges may use and make.

    Raises:
        GGUFError: a token is absurdly long, or there are absurdly many merges.
    """
    ids = np.flatnonzero(mergeable)
    texts = [vocabulary.texts[index] for index in ids.tolist()]
    pairs = _find_pairs(texts)
    pairs = _without_rivals(pairs, texts, vocabulary, mergeable)
    _, rank = np.unique(-vocabulary.scores[ids], return_inverse=True)  # equal scores share a rank
    pairs = pairs[np.argsort(rank[pairs.whole] * MAX_TOKEN_CHARS - pairs.split, kind="stable")]
    objects = np.array(texts, object)
    return list(zip(objects[pairs.left], objects[pairs.right], strict=True))


def _find_pairs(texts: Sequence[str]) -> Pairs:
    """Every split of every token into two tokens."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    longest = int(lengths.max(initial=0))
    if longest > MAX_TOKEN_CHARS:
        raise key_error(
            TOKENS, f"a token has {longest} characters, at most {MAX_TOKEN_CHARS} are allowed"
        )
    # Longest first: the tokens with more than `size` characters are then the first ones.
    order = np.argsort(-lengths, kind="stable")
    ends = np.cumsum(lengths)
    lengths = lengths[order]
    longer_than = len(texts) - np.searchsorted(lengths[::-1], np.arange(longest + 1), "right")
    chars = np.frombuffer("".join(texts).encode("utf-32-le"), np.uint32)
    starts = ends[order] - lengths
    powers = np.cumprod(np.full(longest + 1, BASE))  # powers[i] == BASE ** (i + 1)

    hashes = np.zeros(len(texts), np.uint64)
    for size in range(longest):
        some = slice(longer_than[size])
        hashes[some] = hashes[some] * BASE + _mixed(chars[starts[some] + size])
    find = _HashTable(hashes).find

    prefixes = np.zeros(len(texts), np.uint64)
    limit = MAX_PAIRS_PER_TOKEN * len(texts)
    found, count = [np.empty((4, 0), np.int64)], 0
    for size in range(1, longest):
        some = slice(longer_than[size])
        prefixes[some] = prefixes[some] * BASE + _mixed(chars[starts[some] + size - 1])
        left = find(prefixes[some])
        whole = np.flatnonzero(left >= 0)
        # The hash of a text is that of its head times BASE ** len(tail), plus that of its tail.
        tails = hashes[whole] - prefixes[whole] * powers[lengths[whole] - size - 1]
        right = find(tails)
        hits = np.flatnonzero(right >= 0)
        count += len(hits)
        if count > limit:
            raise key_error(TOKENS, f"more than {limit} merges of {len(texts)} tokens")
        whole = whole[hits]
        split = np.full(len(hits), size)
        found.append(np.stack((order[whole], order[left[whole]], order[right[hits]], split)))
    return Pairs(*np.concatenate(found, axis=1))


def _mixed(chars: npt.NDArray[np.uint32]) -> Hashes:
    """A number per character, as if drawn at random."""
    mixed = (chars.astype(np.uint64) + np.uint64(1)) * MIX
    return mixed ^ (mixed >> np.uint64(29))


class _HashTable:
    """Open addressing over distinct hashes, many look-ups at a time."""

    def __init__(self, hashes: Hashes) -> None:
        bits = max(2, 2 + len(hashes).bit_length())
        self._hashes, self._shift, self._mask = hashes, np.uint64(64 - bits), (1 << bits) - 1
        self._table = np.full(1 << bits, -1, np.int32)
        slots, rest = self._slots(hashes), np.arange(len(hashes), dtype=np.int32)
        while len(rest):
            free = self._table[slots] < 0
            self._table[slots[free]] = rest[free]
            lost = self._table[slots] != rest
            rest, slots = rest[lost], (slots[lost] + 1) & self._mask

    def _slots(self, hashes: Hashes) -> Ints:
        return ((hashes * MIX) >> self._shift).astype(np.int64)

    def find(self, hashes: Hashes) -> npt.NDArray[np.int32]:
        """The index of each hash, -1 where there is none."""
        slots = self._slots(hashes)
        found = self._table[slots]
        rest = np.flatnonzero((found >= 0) & (self._hashes[found] != hashes))
        while len(rest):
            slots[rest] = (slots[rest] + 1) & self._mask
            found[rest] = self._table[slots[rest]]
            candidates = found[rest]
            rest = rest[(candidates >= 0) & (self._hashes[candidates] != hashes[rest])]
        return found


def _without_rivals(
    pairs: Pairs, texts: Sequence[str], vocabulary: Vocabulary, mergeable: npt.NDArray[np.bool_]
) -> Pairs:
    """Leave one pair to tokens with overlapping ones (see the module's first lines)."""
    lengths = np.fromiter(map(len, texts), np.int64, len(texts))
    starts = np.cumsum(lengths) - lengths
    # Two pairs (A, B) and (B, C) of one token overlap: the left part of the second is B.
    left_at = np.full(lengths.sum() + 1, -1, np.int64)
    left_at[starts[pairs.whole] + pairs.split] = pairs.left
    rest = lengths[pairs.whole] - pairs.split
    overlaps = (left_at[starts[pairs.whole] + rest] == pairs.right) & (rest != pairs.split)

    ambiguous = np.zeros(len(texts), np.bool_)
    ambiguous[pairs.whole[overlaps]] = True
    scores = np.where(mergeable, vocabulary.scores, NONE).tolist()
    split_of = {
        whole: _last_split(texts[whole], vocabulary.ids, scores)
        for whole in np.flatnonzero(ambiguous).tolist()
    }
    keep = ~ambiguous[pairs.whole]
    for row in np.flatnonzero(~keep).tolist():
        keep[row] = pairs.split[row] == split_of[int(pairs.whole[row])]
    return pairs[keep]


def _last_split(text: str, ids: Mapping[str, int], scores: Sequence[float]) -> int:
    """Where the last merge joins ``text``; 0 where merging never reaches it.

    Args:
        scores: of all tokens, minus infinity for those that no merge makes.
    """
    parts = list(text)
    while len(parts) > 2:
        # max() takes the first of equals: the leftmost.
        best = max(
            range(len(parts) - 1),
            key=lambda i: (
                scores[ids[joined]] if (joined := parts[i] + parts[i + 1]) in ids else NONE
            ),
        )
        joined = parts[best] + parts[best + 1]
        if joined not in ids or scores[ids[joined]] == NONE:
            return 0
        parts[best : best + 2] = [joined]
    return len(parts[0])
