"""Byte-level byte-pair encoding against tokenizers trained by the library."""

from __future__ import annotations

from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizer_oracles import byte_level_metadata, random_texts, train_byte_level

from rocmforge_torch import GGUFError
from rocmforge_torch.gguf.tokenizer import Tokenizer
from rocmforge_torch.gguf.tokenizer.byte_pairs import byte_level_piece

PATTERNS = {
    "gpt-2": r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    "qwen2": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "llama-bpe": r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}


@pytest.fixture(scope="module")
def oracle() -> tokenizers.Tokenizer:
    return train_byte_level(PATTERNS["gpt-2"])


@pytest.fixture(scope="module")
def metadata(oracle: tokenizers.Tokenizer) -> dict[str, Any]:
    return byte_level_metadata(oracle, "gpt-2")


@pytest.fixture(scope="module")
def tokenizer(metadata: dict[str, Any]) -> Tokenizer:
    return Tokenizer.from_metadata(metadata)


@pytest.mark.parametrize("name", PATTERNS)
def test_ids(name: str) -> None:
    oracle = train_byte_level(PATTERNS[name], ignore_merges=name == "llama-bpe")
    tokenizer = Tokenizer.from_metadata(byte_level_metadata(oracle, name))
    bos = [0] if name == "llama-bpe" else []
    for text in random_texts(600, seed=4):
        assert tokenizer.encode(text, parse_special=True) == bos + oracle.encode(text).ids
        plain = tokenizer.encode(text, add_special=False)
        assert tokenizer.decode(plain) == text


def test_special_tokens(oracle: tokenizers.Tokenizer, tokenizer: Tokenizer) -> None:
    text = "<|im_start|>user\nHi<|im_end|>"
    parsed = tokenizer.encode(text, parse_special=True)
    assert parsed == oracle.encode(text).ids
    assert (parsed[0], parsed[-1]) == (1, 2)
    assert tokenizer.decode(parsed) == "user\nHi"
    assert tokenizer.decode(parsed, skip_special=False) == text
    assert not {0, 1, 2} & set(tokenizer.encode(text))
    assert tokenizer.eog_ids == {0, 2}
    assert (tokenizer.bos_id, tokenizer.unk_id, tokenizer.add_bos) == (0, None, False)


def test_whole_words_before_merges() -> None:
    """Llama 3 takes a word that is a token as it is; other models follow the merges."""
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": ["a", "b", "c", "ab", "bc", "abc"],
        "tokenizer.ggml.merges": ["b c", "a b", "ab c"],
        "tokenizer.ggml.add_bos_token": False,
    }
    by_merges = Tokenizer.from_metadata({**metadata, "tokenizer.ggml.pre": "dbrx"})
    whole = Tokenizer.from_metadata({**metadata, "tokenizer.ggml.pre": "llama3"})
    assert by_merges.encode("abc") == [0, 4]
    assert whole.encode("abc") == [5]


def test_pre_tokenizer_names(metadata: dict[str, Any]) -> None:
    unnamed = {key: value for key, value in metadata.items() if key != "tokenizer.ggml.pre"}
    with pytest.warns(UserWarning, match=r"lacks tokenizer\.ggml\.pre"):
        tokenizer = Tokenizer.from_metadata(unnamed)
    default = Tokenizer.from_metadata({**metadata, "tokenizer.ggml.pre": "default"})
    for text in random_texts(50, seed=5):
        assert tokenizer.encode(text) == default.encode(text)
    with pytest.raises(GGUFError, match="unknown pre-tokenizer 'my-own'"):
        Tokenizer.from_metadata({**metadata, "tokenizer.ggml.pre": "my-own"})


def test_spaces_and_bytes_of_gemma4() -> None:
    """Merges over text itself, with "▁" for spaces and byte tokens for unknown characters."""
    tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokens += ["a", "b", "▁", "▁a", "▁ab", "\n", "\n\n", "<bos>"]
    tokenizer = Tokenizer.from_metadata(
        {
            "tokenizer.ggml.model": "gemma4",
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [6] * 256 + [1] * 7 + [3],
            "tokenizer.ggml.merges": ["▁ a", "▁a b", "\n \n"],
            "tokenizer.ggml.bos_token_id": len(tokens) - 1,
        }
    )
    ids = tokenizer.encode(" ab a\n\né")
    assert [tokens[i] for i in ids] == ["<bos>", "▁ab", "▁a", "\n\n", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids) == " ab a\n\né"


def test_letters_for_bytes() -> None:
    """The published table of GPT-2, from transformers."""
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    for byte, letter in bytes_to_unicode().items():
        assert byte_level_piece(letter) == bytes((byte,))
    assert byte_level_piece("Ġ世") == " 世".encode()


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 1199), max_size=30))
def test_stream_of_any_ids(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Bytes of any length and order: what is no UTF-8 shows as U+FFFD, at its place."""
    stream = tokenizer.stream(skip_special=False)
    pieces = [*map(stream.push, ids), stream.finish()]
    text = "".join(pieces)
    assert text == tokenizer.decode(ids, skip_special=False)
    raw = b"".join(
        tokenizer.token(i).encode() if i < 3 else byte_level_piece(tokenizer.token(i)) for i in ids
    )
    assert text == raw.decode("utf-8", errors="replace")


@settings(max_examples=200, deadline=None)
@given(st.text())
def test_stream_of_text(tokenizer: Tokenizer, text: str) -> None:
    """Every piece is made of whole characters of the text."""
    stream = tokenizer.stream()
    written = ""
    for token_id in tokenizer.encode(text):
        written += stream.push(token_id)
        assert text.startswith(written)
    assert written == text
    assert stream.finish() == ""
