"""Typed access to the tokenizer's keys, and the errors that name them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import GGUFError, quote

PREFIX = "tokenizer.ggml."
TOKENS = PREFIX + "tokens"
SCORES = PREFIX + "scores"
TOKEN_TYPE = PREFIX + "token_type"
MERGES = PREFIX + "merges"
PRE = PREFIX + "pre"
CHARSMAP = PREFIX + "precompiled_charsmap"

Metadata = Mapping[str, Any]


def key_error(key: str, problem: str) -> GGUFError:
    """The exception for ``problem`` in the value of ``key``."""
    return GGUFError(problem, subject=f"key {quote(key)}")


def get_bool(metadata: Metadata, name: str, default: bool) -> bool:
    """The bool under ``tokenizer.ggml.NAME``, ``default`` where the file has none."""
    value = metadata.get(PREFIX + name, default)
    if not isinstance(value, bool | np.bool_):
        raise key_error(PREFIX + name, f"must be a bool, it is {value!r:.80}")
    return bool(value)


def get_str(metadata: Metadata, key: str, default: str | None = None) -> str:
    """The string under ``key``; an error where the file has none and there is no default."""
    value = metadata.get(key, default)
    if not isinstance(value, str):
        raise key_error(key, f"must be a string, it is {value!r:.80}")
    return value


def get_token_id(metadata: Metadata, name: str, vocab_size: int, default: int | None) -> int | None:
    """The token id under ``tokenizer.ggml.NAME``.

    A default, which the format assumes where the file says nothing, holds only if the vocabulary
    has that id.
    """
    key = PREFIX + name
    if key not in metadata:
        return default if default is not None and default < vocab_size else None
    value = metadata[key]
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise key_error(key, f"must be an integer, it is {value!r:.80}")
    if not 0 <= value < vocab_size:
        raise key_error(key, f"token id {value} is not in the vocabulary of {vocab_size} tokens")
    return int(value)


def get_strings(metadata: Metadata, key: str) -> Sequence[str]:
    """The array of strings under ``key`` (its elements are checked by whoever reads them)."""
    value = metadata.get(key)
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Sequence):
        raise key_error(key, f"must be an array of strings, it is {value!r:.80}")
    return value


def get_numbers(metadata: Metadata, key: str, count: int, kinds: str) -> np.ndarray | None:
    """The numbers under ``key`` [count], ``None`` where the file has none.

    Args:
        kinds: the numpy dtype kinds that are allowed, such as ``"iu"``.
    """
    if key not in metadata:
        return None
    try:
        values = np.asarray(metadata[key])
    except ValueError:  # a list of lists of different lengths
        values = np.empty(0, object)
    if values.ndim != 1 or values.dtype.kind not in kinds:
        raise key_error(key, f"must be an array of numbers, it is {metadata[key]!r:.80}")
    if len(values) != count:
        raise key_error(key, f"has {len(values)} entries for {count} tokens")
    return values
