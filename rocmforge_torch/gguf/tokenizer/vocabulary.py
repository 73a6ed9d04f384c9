"""The tokens of a GGUF file with their scores and types, checked."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
import numpy.typing as npt

from .fields import SCORES, TOKEN_TYPE, TOKENS, Metadata, get_numbers, get_strings, key_error

BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenType(IntEnum):
    """What ``tokenizer.ggml.token_type`` says of a token (ggml's ``llama_token_type``)."""

    UNDEFINED = 0
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """A vocabulary while a tokenizer is built from it.

    Attributes:
        texts [n]: the token texts, all different, none empty.
        ids: the id of each text.
        scores [n] float64: log-probabilities or negative ranks; 0 where the file has none.
        types [n] int32: a :class:`TokenType` each.
    """

    texts: Sequence[str]
    ids: dict[str, int]
    scores: npt.NDArray[np.float64]
    types: npt.NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.texts)

    @property
    def byte_ids(self) -> list[int]:
        """The ids of ``<0x00>`` to ``<0xFF>``; empty if one of them is missing."""
        ids = [self.ids.get(f"<0x{byte:02X}>", -1) for byte in range(256)]
        return [] if -1 in ids else ids


def read_vocabulary(metadata: Metadata, needs_scores: bool = False) -> Vocabulary:
    """Read the token list and what belongs to it.

    Args:
        needs_scores: whether the model means nothing without scores.

    Raises:
        GGUFError: a list is missing, has the wrong type or length, or its values make no sense.
    """
    texts = _read_texts(metadata)
    ids = dict(zip(texts, range(len(texts)), strict=True))
    if len(ids) != len(texts):
        twice = next(text for index, text in enumerate(texts) if ids[text] != index)
        raise key_error(TOKENS, f"token {twice!r:.80} appears more than once")
    scores = get_numbers(metadata, SCORES, len(texts), "fiu")
    if scores is None and needs_scores:
        raise key_error(SCORES, "is missing: the model ranks tokens by it")
    scores = np.zeros(len(texts)) if scores is None else scores.astype(np.float64)
    if not np.isfinite(scores).all():
        index = int(np.flatnonzero(~np.isfinite(scores))[0])
        raise key_error(SCORES, f"the score of token {index} is {scores[index]}")
    return Vocabulary(texts, ids, scores, _read_types(metadata, texts))


def _read_texts(metadata: Metadata) -> list[str]:
    texts = list(get_strings(metadata, TOKENS))
    if not texts:
        raise key_error(TOKENS, "the vocabulary is empty")
    if set(map(type, texts)) != {str}:
        raise key_error(TOKENS, "must hold strings only")
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        raise key_error(TOKENS, "a token is no valid Unicode") from None
    if "" in texts:
        texts = [text or placeholder(index) for index, text in enumerate(texts)]
    return texts


def placeholder(index: int) -> str:
    """What an empty token is called (llama.cpp's name for it)."""
    return f"[EMPTY_{index}]"


def _read_types(metadata: Metadata, texts: Sequence[str]) -> npt.NDArray[np.int32]:
    read = get_numbers(metadata, TOKEN_TYPE, len(texts), "iu")
    if read is None:
        return np.full(len(texts), TokenType.NORMAL, np.int32)
    unknown = np.flatnonzero((read < 0) | (read > max(TokenType)))
    if len(unknown):
        raise key_error(TOKEN_TYPE, f"token {unknown[0]} has the unknown type {read[unknown[0]]}")
    for index in np.flatnonzero(read == TokenType.BYTE).tolist():
        if not BYTE_TOKEN.fullmatch(texts[index]):
            raise key_error(
                TOKEN_TYPE, f"token {index}, {texts[index]!r:.80}, is no byte such as <0x0A>"
            )
    return read.astype(np.int32)
