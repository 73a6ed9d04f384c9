"""SentencePiece's byte-pair encoding, ranked by scores: the model ``llama``."""

from __future__ import annotations

import numpy as np
import tokenizers
from tokenizers import models

from .fields import TOKENS, Metadata, get_bool, key_error
from .merges import derive_merges
from .model import SPACE, Model, encoder, escape_spaces, library_errors, unescape_spaces
from .vocabulary import TokenType, Vocabulary

# Their text is never written by merges: it means something only where special tokens are parsed.
NOT_MERGED = (TokenType.UNKNOWN, TokenType.CONTROL, TokenType.BYTE)


def build_sentencepiece(metadata: Metadata, vocabulary: Vocabulary, unk_id: int | None) -> Model:
    """Build the model: merges from scores, bytes for characters that have no token.

    Raises:
        GGUFError: the vocabulary makes no model.
    """
    merges = derive_merges(vocabulary, ~np.isin(vocabulary.types, NOT_MERGED))
    with library_errors(lambda message: key_error(TOKENS, message)):
        backend = tokenizers.Tokenizer(
            models.BPE(
                vocabulary.ids,
                merges,
                byte_fallback=bool(vocabulary.byte_ids),
                unk_token=None if unk_id is None else vocabulary.texts[unk_id],
                fuse_unk=True,
            )
        )
    if get_bool(metadata, "add_space_prefix", True):
        encode = encoder(backend, _escape_with_prefix)
        return Model(backend, encode, unescape_spaces, space_prefix=True)
    return Model(backend, encoder(backend, escape_spaces), unescape_spaces)


def _escape_with_prefix(text: str) -> str:
    return SPACE + escape_spaces(text)
