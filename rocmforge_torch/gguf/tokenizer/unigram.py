"""SentencePiece's unigram language model: the model ``t5``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from tokenizers import models

from .charsmap import CharsMap, read_charsmap
from .fields import TOKENS, Metadata, get_bool, key_error
from .model import SPACE, Model, escape_spaces, library_errors, unescape_spaces
from .vocabulary import TokenType, Vocabulary

# Only these may be found in a text; the others stand for something that is not text.
FOUND_IN_TEXT = (
    TokenType.UNDEFINED,
    TokenType.NORMAL,
    TokenType.USER_DEFINED,
    TokenType.UNUSED,
)
# No prepared text contains a plain space, so no part of one equals a token that begins with it.
HIDDEN = " "


def build_unigram(metadata: Metadata, vocabulary: Vocabulary, unk_id: int | None) -> Model:
    """Build the model: the most likely segmentation, after the file's normalization.

    Raises:
        GGUFError: the vocabulary makes no model.
    """
    found = np.isin(vocabulary.types, FOUND_IN_TEXT)
    scored = vocabulary.types == TokenType.NORMAL
    # Unknown characters cost 10 more than the worst score (SentencePiece's penalty), so the
    # others' meaningless scores must not be the worst.
    scores = np.where(scored, vocabulary.scores, 0.0)
    pieces = [
        (text if visible else HIDDEN + text, score)
        for text, visible, score in zip(
            vocabulary.texts, found.tolist(), scores.tolist(), strict=True
        )
    ]
    if unk_id is None:
        raise key_error(TOKENS, "a unigram model needs a token for unknown characters")
    with library_errors(lambda message: key_error(TOKENS, message)):
        backend = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=unk_id))
    prepare = _Normalizer(
        read_charsmap(metadata),
        space_prefix=get_bool(metadata, "add_space_prefix", False),
        merge_spaces=get_bool(metadata, "remove_extra_whitespaces", False),
    )
    encode = _Encoder(backend, prepare, unk_id, vocabulary.byte_ids)
    return Model(backend, encode, unescape_spaces, space_prefix=prepare.space_prefix)


@dataclass(frozen=True, slots=True)
class _Normalizer:
    """SentencePiece's normalization: the file's rules, then white space."""

    rules: CharsMap | None
    space_prefix: bool
    merge_spaces: bool

    def __call__(self, text: str) -> str:
        if self.rules:
            text = self.rules.normalize(text)
        if self.merge_spaces:
            text = re.sub(" {2,}", " ", text.strip(" "))
        if text and self.space_prefix:
            text = SPACE + text
        return escape_spaces(text)


@dataclass(frozen=True, slots=True)
class _Encoder:
    """Encodes a text, with bytes instead of unknown characters where the vocabulary has them."""

    backend: tokenizers.Tokenizer
    prepare: _Normalizer
    unk_id: int
    byte_ids: Sequence[int]

    def __call__(self, text: str) -> list[int]:
        text = self.prepare(text)
        encoding = self.backend.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        if not self.byte_ids or self.unk_id not in ids:
            return ids
        expanded: list[int] = []
        for token_id, (begin, end) in zip(ids, encoding.offsets, strict=True):
            if token_id == self.unk_id:
                expanded += (self.byte_ids[byte] for byte in text[begin:end].encode())
            else:
                expanded.append(token_id)
        return expanded
