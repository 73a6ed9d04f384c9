"""The table of pre-tokenizers against the models' published definitions.

The definitions run on the ``regex`` module or on the pre-tokenizers that ``tokenizers`` has ready
made, neither of which our table uses.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import regex
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizer_oracles import corpus, random_texts
from tokenizers import pre_tokenizers
from transformers.convert_slow_tokenizer import TikTokenConverter
from transformers.models.qwen2.tokenization_qwen2 import PRETOKENIZE_REGEX as QWEN2
from transformers.models.qwen3_5.tokenization_qwen3_5 import PRETOKENIZE_REGEX as QWEN35

from rocmforge_torch.gguf.tokenizer.pre_tokenizers import FAMILIES, PRE_TOKENIZERS

# As tiktoken publishes them (openai_public.py).
R50K = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"""
O200K = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
LLAMA3 = TikTokenConverter().pattern
TEKKEN = regex.sub(r"\(\?i:[^)]*\)\?", "", O200K).replace("{1,3}", "")
# As the models' tokenizer.json files have them.
DEEPSEEK_V3 = (
    r"\p{N}{1,3}",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+""",
)
DEEPSEEK_CODER = (r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+", r"\p{N}")
SEED_CODER = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1}| ?[^\s\p{L}\p{N}\r\n]+"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BLOOM = r" ?[^(\s|.,!?…。，、।۔،)]+"
HAN = r"\p{Han}"
KIMI = (
    rf"{HAN}+|[^\r\n\p{{L}}\p{{N}}]?(?:(?!{HAN})[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}])*"
    rf"(?:(?!{HAN})[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}])+(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?(?:(?!{HAN})[\p{{Lu}}\p{{Lt}}\p{{Lm}}\p{{Lo}}\p{{M}}])+"
    rf"(?:(?!{HAN})[\p{{Ll}}\p{{Lm}}\p{{Lo}}\p{{M}}])*(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def by_regex(*patterns: str) -> Callable[[str], list[str]]:
    """Cuts at every match of each pattern in turn."""

    def split(text: str) -> list[str]:
        pieces = [text]
        for pattern in patterns:
            pieces = [part for piece in pieces for part in _isolated(pattern, piece)]
        return pieces

    return split


def _isolated(pattern: str, text: str) -> list[str]:
    parts, end = [], 0
    for match in regex.finditer(pattern, text, regex.V0):
        parts += [text[end : match.start()], match[0]]
        end = match.end()
    return [part for part in (*parts, text[end:]) if part]


def by_library(*steps: Any) -> Callable[[str], list[str]]:
    """Cuts as ready-made steps of ``tokenizers`` do."""
    sequence = pre_tokenizers.Sequence(list(steps))
    return lambda text: [text[a:b] for _, (a, b) in sequence.pre_tokenize_str(text)]


GPT2_STEP = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
DIGIT_STEP = pre_tokenizers.Digits(individual_digits=True)

PUBLISHED = {
    "gpt-2": (by_library(GPT2_STEP), by_regex(R50K)),
    "starcoder": (by_library(DIGIT_STEP, GPT2_STEP),),
    "llama-bpe": (by_regex(LLAMA3),),
    "qwen2": (by_regex(QWEN2),),
    "qwen35": (by_regex(QWEN35),),
    "gpt-4o": (by_regex(O200K),),
    "tekken": (by_regex(TEKKEN),),
    "deepseek-v3": (by_regex(*DEEPSEEK_V3),),
    "deepseek-coder": (by_regex(*DEEPSEEK_CODER),),
    "seed-coder": (by_regex(SEED_CODER),),
    "kimi-k2": (by_regex(KIMI),),
    "bloom": (by_regex(BLOOM),),
    "viking": (by_regex(BLOOM, r"\p{N}"),),
}


def pre_tokenize(name: str, text: str) -> list[str]:
    sequence = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
            for split in PRE_TOKENIZERS[name].splits
        ]
    )
    return [piece for piece, _ in sequence.pre_tokenize_str(text)]


def known_to_all(text: str) -> bool:
    """Whether every engine's Unicode tables are old enough to know these characters."""
    return all(unicodedata.category(c) != "Cn" and ord(c) < 0x20000 for c in text)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_definition(name: str) -> None:
    texts = [text for text in (*corpus(), *random_texts(600, seed=3)) if known_to_all(text)]
    assert len(texts) > 400
    for oracle in PUBLISHED[name]:
        for text in texts:
            assert pre_tokenize(name, text) == oracle(text)


def test_names_that_mean_the_same() -> None:
    for first, *others in (
        ("llama-bpe", "llama3", "llama-v3", "lfm2"),
        ("gpt-2", "phi-2", "olmo", "mpt"),
        ("starcoder", "smollm", "command-r", "refact"),
        ("qwen2", "stablelm2", "deepseek-r1-qwen"),
        ("gpt-4o", "llama4", "kanana2"),
    ):
        assert all(PRE_TOKENIZERS[name] == PRE_TOKENIZERS[first] for name in others)
    assert PRE_TOKENIZERS["dbrx"].splits == PRE_TOKENIZERS["llama-bpe"].splits
    assert PRE_TOKENIZERS["llama-bpe"].ignore_merges
    assert not PRE_TOKENIZERS["dbrx"].ignore_merges


@pytest.mark.parametrize(
    ("name", "text", "pieces"),
    [
        ("default", "it's 12345!", ["it", "'", "s", " ", "123", "45", "!"]),
        ("falcon", "a+b 12345", ["a", "+", "b", " ", "123", "45"]),
        ("afmoe", "1234567 12 123", ["1", "234", "567", " ", "12", " ", "123"]),
        ("tiny_aya", "1234567 x12", ["1", "234", "567", " x", "12"]),
        ("superbpe", "1234567 12", ["1", "234", "567", " ", "12"]),
        ("jais-2", "a" + " " * 7 + "b", ["a", " " * 4, " " * 2, " b"]),
        ("gemma4", "a b\n\nc", ["a b", "\n\n", "c"]),
        ("laguna", "a b\n\nc", ["a", " b", "\n\n", "c"]),
        ("bailingmoe", "I'Ll 12\n\nx", ["I", "'Ll", " ", "1", "2", "\n\n", "x"]),
        ("exaone-moe", "one two 1", ["one two", " ", "1"]),
        ("ufakzeka", "İstanbul'dan 12", ["İstanbul", "'dan", " ", "1", "2"]),
        ("chameleon", "x IMGIMGABZ\ty 12", ["x", " ", "IMGIMGABZ", "\t", "y", " ", "1", "2"]),
        ("deepseek-llm", "Hi there中文12", ["Hi", " there", "中文", "12"]),
        ("youtu", "한국 A1中", ["한국", " A", "1", "中"]),
        ("spark2_5", "a\n\n12", ["a", "\n", "\n", "1", "2"]),
        ("minicpm5", "a 12345", ["a", " ", "123", "45"]),
    ],
)
def test_examples(name: str, text: str, pieces: list[str]) -> None:
    assert pre_tokenize(name, text) == pieces


@pytest.mark.parametrize("name", PRE_TOKENIZERS)
def test_nothing_is_lost(name: str) -> None:
    sequence = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(split), "isolated")
            for split in PRE_TOKENIZERS[name].splits
        ]
    )

    @settings(max_examples=40, deadline=None, database=None)
    @given(st.text(max_size=60))
    @example("")
    @example("\r\n \t\u3000 1234567x 'S\u017f  ")
    def check(text: str) -> None:
        assert "".join(piece for piece, _ in sequence.pre_tokenize_str(text)) == text

    check()


def test_documented() -> None:
    """The table of the documentation has the rows of ours."""
    text = (Path(__file__).parents[2] / "docs" / "tokenizer.md").read_text(encoding="utf-8")
    rows = [
        set(regex.findall(r"`([^`]+)`", line.split("|")[1]))
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    for names, _ in FAMILIES:
        assert set(names.split()) in rows
