"""Tiny tokenizers trained here, as GGUF metadata and as the library that trained them."""

from __future__ import annotations

import io
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

CORPUS = Path(__file__).parents[1] / "data" / "tokenizer_corpus.txt"
USER_DEFINED = ["<tool>", "<|sep|>"]


def corpus() -> list[str]:
    return CORPUS.read_text(encoding="utf-8").splitlines()


def train_sentencepiece(kind: str, **options: Any) -> sentencepiece.SentencePieceProcessor:
    """A SentencePiece model of 'bpe' or 'unigram' over the corpus, without normalization."""
    defaults = {
        "vocab_size": 900,
        "normalization_rule_name": "identity",
        "remove_extra_whitespaces": False,
        "character_coverage": 0.995,
        "minloglevel": 2,
        "hard_vocab_limit": False,
        "user_defined_symbols": USER_DEFINED,
        "split_by_unicode_script": False,
        "num_threads": 1,
    }
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()),
        model_writer=model,
        model_type=kind,
        **defaults | options,
    )
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def sentencepiece_metadata(
    processor: sentencepiece.SentencePieceProcessor, kind: str, **options: Any
) -> dict[str, Any]:
    """What a converter would write into a GGUF file about a model trained with these options."""
    ids = range(processor.vocab_size())
    metadata = {
        "tokenizer.ggml.model": {"bpe": "llama", "unigram": "t5"}[kind],
        "tokenizer.ggml.tokens": [processor.id_to_piece(i) for i in ids],
        "tokenizer.ggml.scores": np.array([processor.get_score(i) for i in ids], np.float32),
        "tokenizer.ggml.token_type": np.array([_token_type(processor, i) for i in ids], np.int32),
        "tokenizer.ggml.bos_token_id": processor.bos_id(),
        "tokenizer.ggml.eos_token_id": processor.eos_id(),
        "tokenizer.ggml.unknown_token_id": processor.unk_id(),
        "tokenizer.ggml.add_space_prefix": options.get("add_dummy_prefix", True),
        "tokenizer.ggml.remove_extra_whitespaces": options.get("remove_extra_whitespaces", False),
    }
    normalizer = protobuf_field(processor.serialized_model_proto(), 3)
    if charsmap := protobuf_field(normalizer, 2):
        metadata["tokenizer.ggml.precompiled_charsmap"] = np.frombuffer(charsmap, np.uint8)
    return metadata


def _token_type(processor: sentencepiece.SentencePieceProcessor, token_id: int) -> int:
    if processor.id_to_piece(token_id) in USER_DEFINED:
        return 4
    kinds = {2: "is_unknown", 3: "is_control", 5: "is_unused", 6: "is_byte"}
    return next((n for n, kind in kinds.items() if getattr(processor, kind)(token_id)), 1)


def protobuf_field(message: bytes, wanted: int) -> bytes:
    """The last length-delimited field of that number; empty if there is none."""
    at, found = 0, b""

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    while at < len(message):
        number, wire = divmod(varint(), 8)
        if wire == 0:
            varint()
        elif wire == 2:
            size = varint()
            if number == wanted:
                found = message[at : at + size]
            at += size
        else:
            at += {1: 8, 5: 4}[wire]
    return found


def train_byte_level(pattern: str, **options: Any) -> tokenizers.Tokenizer:
    """A byte-level BPE tokenizer over the corpus that cuts words by ``pattern``."""
    tokenizer = tokenizers.Tokenizer(models.BPE(**options))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1200,
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    )
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def byte_level_metadata(tokenizer: tokenizers.Tokenizer, pre: str, **extra: Any) -> dict[str, Any]:
    """What a converter would write into a GGUF file."""
    import json

    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = json.loads(tokenizer.to_str())["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": np.array([3 if t.startswith("<|") else 1 for t in tokens]),
        "tokenizer.ggml.merges": [" ".join(merge) for merge in merges],
        "tokenizer.ggml.bos_token_id": tokens.index("<|endoftext|>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<|endoftext|>"),
    } | extra


def random_texts(count: int, seed: int) -> Iterator[str]:
    """Texts made of the corpus' words, odd runs of characters, and anything at all."""
    rng = random.Random(seed)
    lines = corpus()
    words = " ".join(lines).split()
    for _ in range(count):
        parts = []
        for _ in range(rng.randrange(8)):
            kind = rng.random()
            if kind < 0.5:
                parts.append(" ".join(rng.sample(words, rng.randint(1, 5))))
            elif kind < 0.7:
                parts.append(rng.choice("=- .e*a\t\n哈w") * rng.randint(1, 40))
            elif kind < 0.8:
                parts.append(rng.choice(["hahaha", "anana", "ababa", "'LL", "don't", "12345", "ᾳ"]))
            elif kind < 0.9:
                line = rng.choice(lines)
                begin = rng.randrange(len(line) + 1)
                parts.append(line[begin : begin + rng.randint(1, 60)])
            else:
                code = rng.choice([rng.randint(32, 0xD7FF), rng.randint(0xE000, 0x10FFFF)])
                parts.append(chr(code))
            parts.append(rng.choice(["", "", " ", "  ", "\n", "\r\n"]))
        yield "".join(parts)
