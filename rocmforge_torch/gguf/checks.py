"""What the loader demands of the keys that other code relies on."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from .reader import Header
from .string_array import StringArray

TOKENS = "tokenizer.ggml.tokens"
MERGES = "tokenizer.ggml.merges"
SCORES = "tokenizer.ggml.scores"
TOKEN_TYPES = "tokenizer.ggml.token_type"
ARCHITECTURE = "general.architecture"

MAX_TEMPLATE_CHARS = 1 << 20
MAX_VOCAB_SIZE = (1 << 31) - 1  # token ids are int32 everywhere in ggml


def _is_text(value: Any) -> bool:
    return type(value) is str


def _is_bool(value: Any) -> bool:
    return type(value) is bool


def _is_int(value: Any) -> bool:
    return type(value) is int


def _is_strings(value: Any) -> bool:
    return isinstance(value, StringArray)


def _is_floats(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind == "f"


def _is_ints(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in "iu"


# Pattern of a key -> (what its value must be, in words; the test).
KINDS = tuple(
    (re.compile(pattern), words, test)
    for pattern, words, test in (
        (r"general\.architecture", "a string", _is_text),
        (r"general\.(quantization_version|file_type)", "an integer", _is_int),
        (r"tokenizer\.ggml\.(model|pre)", "a string", _is_text),
        (r"tokenizer\.ggml\.(tokens|merges)", "an array of strings", _is_strings),
        (r"tokenizer\.ggml\.scores", "an array of floats", _is_floats),
        (r"tokenizer\.ggml\.token_type", "an array of integers", _is_ints),
        (r"tokenizer\.ggml\.\w+_token_id", "an integer", _is_int),
        (r"tokenizer\.ggml\.add_\w+", "a bool", _is_bool),
        (r"tokenizer\.chat_template(\.\w+)?", "a string", _is_text),
        (r"tokenizer\.chat_templates", "an array of strings", _is_strings),
        (r"split\.(no|count|tensors\.count)", "an integer", _is_int),
    )
)
TOKEN_ID = re.compile(r"tokenizer\.ggml\.\w+_token_id")
TEMPLATE = re.compile(r"tokenizer\.chat_template(\.\w+)?")


def check_metadata(header: Header) -> None:
    """Refuse metadata whose types, lengths or token ids contradict each other.

    Raises:
        GGUFError: names the key and the byte of its value.
    """
    for key, value in header.metadata.items():
        for pattern, words, test in KINDS:
            if pattern.fullmatch(key) and not test(value):
                raise header.error(key, f"must be {words}, it is {_describe(value)}")
    vocab_size = _check_vocab_size(header)
    _check_tokens(header)
    for key, value in header.metadata.items():
        if TOKEN_ID.fullmatch(key):
            _check_token_id(header, key, vocab_size)
        elif TEMPLATE.fullmatch(key) and len(value) > MAX_TEMPLATE_CHARS:
            raise header.error(
                key, f"a template of {len(value)} characters, at most {MAX_TEMPLATE_CHARS} allowed"
            )


def vocab_size_key(metadata: Mapping[str, Any]) -> str:
    """The key that holds the vocabulary's size."""
    return f"{metadata.get(ARCHITECTURE, '')}.vocab_size"


def _check_vocab_size(header: Header) -> int | None:
    """The number of valid token ids: the longer of the declared vocabulary and the token list."""
    key = vocab_size_key(header.metadata)
    declared = header.metadata.get(key)
    if declared is not None and not (_is_int(declared) and 0 < declared <= MAX_VOCAB_SIZE):
        raise header.error(
            key, f"must be an integer from 1 to {MAX_VOCAB_SIZE}, it is {_describe(declared)}"
        )
    tokens = header.metadata.get(TOKENS)
    return declared if tokens is None else len(tokens)


def _check_tokens(header: Header) -> None:
    tokens = header.metadata.get(TOKENS)
    if tokens is not None and not 0 < len(tokens) <= MAX_VOCAB_SIZE:
        raise header.error(TOKENS, f"must hold 1 to {MAX_VOCAB_SIZE} tokens, it has {len(tokens)}")
    for key in (SCORES, TOKEN_TYPES):
        values = header.metadata.get(key)
        if values is None:
            continue
        if tokens is None:
            raise header.error(key, f"needs {TOKENS}, which the file lacks")
        if len(values) != len(tokens):
            raise header.error(key, f"has {len(values)} entries for {len(tokens)} tokens")
    merges = header.metadata.get(MERGES, ())
    bad = merges.first_without_split() if merges else None
    if bad is not None:
        raise header.error(
            MERGES,
            f"merge {bad} must be two tokens with a space between them, it is {merges[bad]!r:.80}",
            merges.start_of(bad),
        )


def _check_token_id(header: Header, key: str, vocab_size: int | None) -> None:
    value = header.metadata[key]
    limit = MAX_VOCAB_SIZE if vocab_size is None else vocab_size
    if not 0 <= value < limit:
        raise header.error(key, f"token id {value} is not in the vocabulary of {limit} tokens")


def _describe(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {len(value)} {value.dtype}"
    if isinstance(value, StringArray):
        return f"an array of {len(value)} strings"
    if isinstance(value, tuple):
        return f"an array of {len(value)} arrays"
    return f"{type(value).__name__} {value!r:.80}"
