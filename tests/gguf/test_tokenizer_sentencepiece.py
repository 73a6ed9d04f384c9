"""Models trained by SentencePiece: our ids against its own."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_oracles import (
    USER_DEFINED,
    random_texts,
    sentencepiece_metadata,
    train_sentencepiece,
)

from rocmforge_torch.gguf.tokenizer import Tokenizer
from rocmforge_torch.gguf.tokenizer.merges import derive_merges
from rocmforge_torch.gguf.tokenizer.vocabulary import Vocabulary, read_vocabulary

BYTES = {"byte_fallback": True}
BPE_OPTIONS = {
    "unknown": {},
    "bytes": BYTES,
    "no-prefix": {**BYTES, "add_dummy_prefix": False},
    "large": {**BYTES, "vocab_size": 2500},
    "across-spaces": {**BYTES, "split_by_whitespace": False},
    "runs-of-spaces": {**BYTES, "allow_whitespace_only_pieces": True, "vocab_size": 1500},
}
UNIGRAM_OPTIONS = {
    **BPE_OPTIONS,
    "merged-spaces": {**BYTES, "remove_extra_whitespaces": True},
    "nfkc": {**BYTES, "normalization_rule_name": "nmt_nfkc"},
    "nfkc-lower": {"normalization_rule_name": "nmt_nfkc_cf", "remove_extra_whitespaces": True},
}


def texts(count: int, seed: int) -> list[str]:
    """Random texts without what SentencePiece and llama.cpp treat differently.

    These are the user-defined symbols, after which llama.cpp begins a new text.
    """
    return [
        text for text in random_texts(count, seed) if not any(word in text for word in USER_DEFINED)
    ]


@pytest.mark.parametrize("options", BPE_OPTIONS.values(), ids=BPE_OPTIONS)
def test_bpe(options: dict[str, Any]) -> None:
    oracle = train_sentencepiece("bpe", **options)
    tokenizer = Tokenizer.from_metadata(sentencepiece_metadata(oracle, "bpe", **options))
    for text in texts(1000, seed=1):
        ids = tokenizer.encode(text, add_special=False)
        assert ids == oracle.encode(text)
        if options.get("byte_fallback"):
            assert tokenizer.decode(ids) == oracle.decode(ids)
            assert tokenizer.decode(tokenizer.encode(text)) == text.replace("▁", " ")


@pytest.mark.parametrize("options", UNIGRAM_OPTIONS.values(), ids=UNIGRAM_OPTIONS)
def test_unigram(options: dict[str, Any]) -> None:
    """The same ids, or others just as likely: SentencePiece adds up in single precision."""
    oracle = train_sentencepiece("unigram", **options)
    tokenizer = Tokenizer.from_metadata(sentencepiece_metadata(oracle, "unigram", **options))
    different = 0
    for text in texts(1000, seed=2):
        ids, wanted = tokenizer.encode(text, add_special=False), oracle.encode(text)
        if ids != wanted:
            different += 1
            assert sorted(ids) == sorted(wanted)  # the same pieces, in another order
    assert different < 60


def test_user_defined_symbols() -> None:
    """Always found, in any order, also where special tokens are not parsed."""
    options = {**BYTES, "add_dummy_prefix": False}
    oracle = train_sentencepiece("bpe", **options)
    tokenizer = Tokenizer.from_metadata(sentencepiece_metadata(oracle, "bpe", **options))
    for text in ("<tool>", "a<tool><|sep|> b", "<<|sep|>><tool", " <tool> <tool>  x"):
        assert tokenizer.encode(text, add_special=False) == oracle.encode(text)


def test_space_prefix_of_every_part() -> None:
    """As llama.cpp does: after a special token a text begins anew, and decoding undoes it."""
    oracle = train_sentencepiece("bpe", **BYTES)
    tokenizer = Tokenizer.from_metadata(sentencepiece_metadata(oracle, "bpe"))
    text = "the end</s>the end<tool> the"
    ids = tokenizer.encode(text, add_special=False, parse_special=True)
    the_end, spaced = oracle.encode("the end"), oracle.encode(" the")
    assert ids == [*the_end, 2, *the_end, oracle.piece_to_id("<tool>"), *spaced]
    assert tokenizer.decode(ids, skip_special=False) == text
    assert tokenizer.decode([1, *the_end]) == "the end"
    # What continues a text keeps its space.
    stream = tokenizer.stream(prefix=tokenizer.encode("the"))
    assert "".join(map(stream.push, the_end)) == " the end"


def test_unused_control_and_byte_tokens_in_text() -> None:
    """Text that spells a control or byte token is cut as text."""
    oracle = train_sentencepiece("bpe", **BYTES)
    tokenizer = Tokenizer.from_metadata(sentencepiece_metadata(oracle, "bpe"))
    for text in ("</s>", "<s>x", "<0x0A>", "<unk>"):
        ids = tokenizer.encode(text, add_special=False)
        assert ids == oracle.encode(text)
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("<s>x", add_special=False, parse_special=True)[0] == 1


def merged_by_hand(text: str, scores: dict[str, float]) -> list[str]:
    """SentencePiece's rule, literally."""
    parts = list(text)
    while True:
        pairs = [a + b for a, b in pairwise(parts)]
        known = [(scores[pair], -at) for at, pair in enumerate(pairs) if pair in scores]
        if not known:
            return parts
        at = -max(known)[1]
        parts[at : at + 2] = [pairs[at]]


SHORT = st.text("ab", min_size=2, max_size=6)


@settings(max_examples=400, deadline=None)
@given(st.lists(SHORT, unique=True, max_size=12), st.lists(st.text("ab", max_size=30)))
def test_any_order_of_scores(words: list[str], samples: list[str]) -> None:
    """Two letters make the most overlaps; the scores fall in any order, as in no real file."""
    tokens = ["a", "b", *words]
    scores = {word: -float(rank) for rank, word in enumerate(words)}
    tokenizer = Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": np.array([-1e3, -1e3, *scores.values()], np.float32),
            "tokenizer.ggml.token_type": np.ones(len(tokens), np.int32),
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.add_space_prefix": False,
        }
    )
    for text in samples:
        ids = tokenizer.encode(text)
        assert [tokens[token_id] for token_id in ids] == merged_by_hand(text, scores)


@pytest.mark.parametrize("longest", [2, 3, 5, 16])
def test_runs_that_share_a_score(longest: int) -> None:
    """Llama 2 gives all runs of spaces one score: the leftmost run must grow first."""
    runs = ["▁" * length for length in range(2, longest + 1)]
    tokens = ["▁", "x", *runs, "▁x"]
    scores = [-1.0, -1.0, *[-1e9] * len(runs), 0.0]
    tokenizer = Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "llama",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": np.array(scores, np.float32),
            "tokenizer.ggml.add_bos_token": False,
            "tokenizer.ggml.add_space_prefix": False,
        }
    )
    known = dict(zip(runs, scores[2:], strict=False)) | {"▁x": 0.0}
    for length in range(60):
        for text in (" " * length, " " * length + "x"):
            ids = tokenizer.encode(text)
            assert [tokens[i] for i in ids] == merged_by_hand(text.replace(" ", "▁"), known)


def test_merges_of_a_vocabulary_without_any() -> None:
    vocabulary = read_vocabulary({"tokenizer.ggml.tokens": ["a", "b", "c"]})
    assert derive_merges(vocabulary, np.ones(3, bool)) == []
    empty = Vocabulary(vocabulary.texts, vocabulary.ids, vocabulary.scores, vocabulary.types)
    assert derive_merges(empty, np.zeros(3, bool)) == []
