"""Compiled normalization rules against SentencePiece, which compiles them."""

from __future__ import annotations

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_oracles import corpus, protobuf_field, random_texts, train_sentencepiece

from rocmforge_torch import GGUFError
from rocmforge_torch.gguf.tokenizer.charsmap import CharsMap

RULES = ("nmt_nfkc", "nfkc", "nmt_nfkc_cf", "nfkc_cf")


def charsmap(rules: str) -> bytes:
    """The compiled rules of that name, out of a model trained with them."""
    processor = train_sentencepiece("bpe", normalization_rule_name=rules)
    return protobuf_field(protobuf_field(processor.serialized_model_proto(), 3), 2)


@pytest.fixture(scope="module", params=RULES)
def rules(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def ours(rules: str) -> CharsMap:
    return CharsMap(charsmap(rules))


@pytest.fixture(scope="module")
def oracle(rules: str) -> sentencepiece.SentencePieceNormalizer:
    return sentencepiece.SentencePieceNormalizer(
        rule_name=rules,
        add_dummy_prefix=False,
        escape_whitespaces=False,
        remove_extra_whitespaces=False,
    )


def test_corpus(ours: CharsMap, oracle: sentencepiece.SentencePieceNormalizer) -> None:
    for text in (*corpus(), *random_texts(300, seed=6)):
        assert ours.normalize(text) == oracle.normalize(text)


def test_every_character(ours: CharsMap, oracle: sentencepiece.SentencePieceNormalizer) -> None:
    codes = [*range(1, 0xD800), *range(0xE000, 0x20000), *range(0xE0000, 0xE0200)]
    for begin in range(0, len(codes), 500):
        text = "|".join(map(chr, codes[begin : begin + 500]))
        assert ours.normalize(text) == oracle.normalize(text)


@settings(max_examples=200, deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])))
@example("Ａ\u0301ｶﾞ①㌔ﬁ\u1e9b\u0323 \u3000\u00a0")
def test_any_text(ours: CharsMap, oracle: sentencepiece.SentencePieceNormalizer, text: str) -> None:
    assert ours.normalize(text) == oracle.normalize(text)


@pytest.fixture(scope="module")
def blob() -> bytes:
    return charsmap("nmt_nfkc")


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_rules(blob: bytes, data: st.DataObject) -> None:
    """Any blob normalizes to some text, or ends in a GGUFError."""
    damaged = bytearray(blob[: data.draw(st.integers(0, len(blob)) | st.just(len(blob)))])
    for _ in range(min(len(damaged), 8)):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        text = CharsMap(bytes(damaged)).normalize("Ａ\u0301 ﬁ ① ｶﾞ abc\u3000é")
    except GGUFError:
        return
    assert isinstance(text, str)
