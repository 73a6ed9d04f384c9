"""The demo model's tokenizer against llama.cpp and transformers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_oracles import CORPUS

from rocmforge_torch import load_gguf
from rocmforge_torch.gguf.tokenizer import Tokenizer

DATA = Path(__file__).parents[1] / "data"
# "▁" is how SentencePiece writes a space: the two cannot be told apart in ids.
TEXTS = st.text().map(lambda text: text.replace("▁", "_"))


@pytest.fixture(scope="module")
def metadata(demo_model_path: Path) -> dict[str, Any]:
    return dict(load_gguf(demo_model_path).metadata)


@pytest.fixture(scope="module")
def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_metadata(metadata)


@pytest.fixture(scope="module")
def llamacpp() -> dict[str, Any]:
    """What llama.cpp (llama-cpp-python 0.3.36) makes of the corpus: whole, by line, with BOS."""
    return json.loads((DATA / "tokenizer_corpus_ids.json").read_text())


def test_ids_of_the_reference_text(tokenizer: Tokenizer) -> None:
    """The GNU GPL's first 1022 tokens, cut by transformers: its text must be cut the same way."""
    first, second = np.load(DATA / "gemma3-270m-q4_k_m.npz")["tokens"].tolist()
    text = tokenizer.decode(first)
    assert text.split()[:4] == ["GNU", "GENERAL", "PUBLIC", "LICENSE"]
    assert tokenizer.encode(text) == first
    # Every window begins with BOS in place of its first token.
    assert tokenizer.encode(tokenizer.decode(second)) == second


def test_ids_of_the_corpus(tokenizer: Tokenizer, llamacpp: dict[str, Any]) -> None:
    text = CORPUS.read_bytes().decode()
    assert tokenizer.encode(text, add_special=False) == llamacpp["whole"]
    for line, plain, special in zip(
        text.split("\n")[:-1], llamacpp["lines"], llamacpp["special"], strict=True
    ):
        assert tokenizer.encode(line, add_special=False) == plain
        assert tokenizer.encode(line, parse_special=True) == special
        assert tokenizer.decode(special) == tokenizer.decode(
            tokenizer.encode(line, parse_special=True)
        )


def test_special_ids(tokenizer: Tokenizer) -> None:
    ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.pad_id)
    assert ids == (2, 1, 3, 0)
    assert {tokenizer.token(i) for i in tokenizer.eog_ids} == {"<eos>", "<end_of_turn>", "</s>"}
    assert tokenizer.vocab_size == len(tokenizer) == 262144


@settings(max_examples=300, deadline=None)
@given(TEXTS)
def test_decode_undoes_encode(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text
    special = tokenizer.encode(text, add_special=False, parse_special=True)
    assert tokenizer.decode(special, skip_special=False) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(["<bos>", "<end_of_turn>", "\n", "  ", "a", "<", "é", "👋🏽"])))
def test_special_text(tokenizer: Tokenizer, parts: list[str]) -> None:
    text = "".join(parts)
    parsed = tokenizer.encode(text, add_special=False, parse_special=True)
    assert tokenizer.decode(parsed, skip_special=False) == text
    assert parsed.count(2) == parts.count("<bos>")
    assert tokenizer.decode(parsed) == text.replace("<bos>", "").replace("<end_of_turn>", "")
    # Text that nobody trusts never becomes a control token.
    plain = tokenizer.encode(text, add_special=False)
    assert not {2, 106} & set(plain)
    assert tokenizer.decode(plain) == text


@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 262143), max_size=40), st.integers(0, 40))
def test_stream_of_any_ids(tokenizer: Tokenizer, ids: list[int], cut: int) -> None:
    stream = tokenizer.stream()
    pieces = [*map(stream.push, ids), stream.finish()]
    assert "".join(pieces) == tokenizer.decode(ids)
    prefix, rest = ids[:cut], ids[cut:]
    stream = tokenizer.stream(prefix)
    tail = "".join([*map(stream.push, rest), stream.finish()])
    assert tokenizer.decode(ids).endswith(tail)


def test_stream_holds_characters_back(tokenizer: Tokenizer) -> None:
    text = "\U000e0041é\u0301"  # a tag letter, which has no token, and a combining mark
    ids = tokenizer.encode(text, add_special=False)
    stream = tokenizer.stream()
    pieces = [stream.push(token_id) for token_id in ids]
    assert pieces[:4] == ["", "", "", "\U000e0041"]
    assert "".join(pieces) == text
    assert stream.finish() == ""
    assert [stream.push(token_id) for token_id in ids[:2]] == ["", ""]
    assert stream.finish() == "\ufffd"
