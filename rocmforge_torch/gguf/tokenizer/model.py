"""What the tokenizer models have in common: a backend, and text on both sides of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import tokenizers

SPACE = "▁"  # SentencePiece's letter for a space


@dataclass(frozen=True, slots=True)
class Model:
    """A tokenizer model built from a GGUF file.

    Attributes:
        backend: encodes a prepared text without special tokens.
        encode: text -> ids.
        piece: the text of an ordinary token -> the bytes that it stands for.
        space_prefix: ``encode`` puts a space in front of every text.
    """

    backend: tokenizers.Tokenizer
    encode: Callable[[str], list[int]]
    piece: Callable[[str], bytes]
    space_prefix: bool = False


def encoder(
    backend: tokenizers.Tokenizer, prepare: Callable[[str], str] = str
) -> Callable[[str], list[int]]:
    """Text -> ids, where ``prepare`` makes what the backend expects of the text."""

    def encode(text: str) -> list[int]:
        ids: list[int] = backend.encode(prepare(text), add_special_tokens=False).ids
        return ids

    return encode


@contextmanager
def library_errors(error: Callable[[str], Exception]) -> Iterator[None]:
    """Turn whatever ``tokenizers`` raises into ``error(its message)``.

    Its Rust panics arrive as a ``PanicException``, which is no ``Exception``.
    """
    try:
        yield
    except Exception as problem:
        raise error(str(problem)) from problem
    except BaseException as problem:
        if type(problem).__name__ != "PanicException":
            raise
        raise error(str(problem)) from problem


def escape_spaces(text: str) -> str:
    """Write spaces as SentencePiece does."""
    return text.replace(" ", SPACE)


def unescape_spaces(text: str) -> bytes:
    """The bytes of a SentencePiece token."""
    return text.replace(SPACE, " ").encode()
