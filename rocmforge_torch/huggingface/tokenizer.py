"""The tokenizer of a folder as GGUF keys: tokens, merges or scores, special tokens, templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import tokenizers

from ..gguf.tokenizer.fields import MERGES, PRE, PREFIX, SCORES, TOKEN_TYPE, TOKENS
from ..gguf.tokenizer.model import SPACE, library_errors
from ..gguf.tokenizer.tokenizer import MODEL
from ..gguf.tokenizer.vocabulary import BYTE_TOKEN, TokenType
from .chat_templates import chat_templates
from .folder import Folder
from .normalizers import describe_normalizer
from .pre_tokenizer import find_pre_tokenizer
from .sentencepiece_model import FILE as SENTENCEPIECE
from .sentencepiece_model import sentencepiece_metadata
from .special_ids import special_ids

FILE = "tokenizer.json"


@dataclass(frozen=True)
class Source:
    """The tokenizer's files.

    Attributes:
        folder: where they are.
        data: tokenizer.json.
        vocab_size: rows of the model's embedding.
        backend: tokenizer.json as the library runs it.
    """

    folder: Folder
    data: dict[str, Any]
    vocab_size: int
    backend: tokenizers.Tokenizer

    @property
    def model(self) -> dict[str, Any]:
        found: dict[str, Any] = self.data["model"]
        return found

    @cached_property
    def tokens(self) -> list[str]:
        """Every row's text; rows without one get a name that no text holds."""
        texts = {index: text for text, index in self.backend.get_vocab(True).items()}
        size = max(self.vocab_size, max(texts, default=-1) + 1)
        if size > self.vocab_size:
            raise self.folder.error(
                FILE, f"has {size} tokens, but the model only {self.vocab_size} rows for them"
            )
        return [texts.get(i, f"[PAD{i}]") for i in range(size)]

    @cached_property
    def added(self) -> dict[int, dict[str, Any]]:
        """Tokens that are found in a text before anything else."""
        return {entry["id"]: entry for entry in self.data.get("added_tokens", [])}


def tokenizer_metadata(folder: Folder) -> dict[str, Any]:
    """The keys `tokenizer.*`.

    By tokenizer.json, else by SentencePiece's tokenizer.model. A folder without either gets the
    model "none": such a file computes, but reads no text.

    Raises:
        FolderError: the tokenizer has no GGUF form.
        OSError: a file cannot be read.
    """
    if not (folder.path / FILE).is_file():
        if (folder.path / SENTENCEPIECE).is_file():
            return {**sentencepiece_metadata(folder), **chat_templates(folder)}
        return {MODEL: "none"}
    with library_errors(lambda message: folder.error(FILE, message)):
        backend = tokenizers.Tokenizer.from_file(str(folder.path / FILE))
    rows = folder.config["vocab_size"]
    source = Source(folder, folder.json(FILE), rows, backend)
    kind = str(source.model.get("type"))
    if kind not in KINDS:
        raise folder.error(FILE, f"a tokenizer of type {kind!r} has no GGUF form")
    return {**KINDS[kind](source), **_special_ids(source), **chat_templates(folder)}


def _byte_pairs(source: Source) -> dict[str, Any]:
    if source.model.get("byte_fallback"):
        return _sentencepiece(source)
    return {
        MODEL: "gpt2",
        PRE: find_pre_tokenizer(source.backend, source.model, source.folder),
        TOKENS: source.tokens,
        TOKEN_TYPE: _types(source),
        MERGES: [merge if isinstance(merge, str) else " ".join(merge) for merge in _merges(source)],
    }


def _merges(source: Source) -> list[Any]:
    merges: list[Any] = source.model.get("merges", [])
    return merges


def _sentencepiece(source: Source) -> dict[str, Any]:
    """SentencePiece's byte pairs: the order of merges becomes a score of what they make."""
    ranks: dict[str, int] = {}
    for merge in _merges(source):
        left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
        ranks.setdefault(left + right, len(ranks))
    lowest = -float(len(ranks))
    scores = [-float(ranks[text]) if text in ranks else lowest for text in source.tokens]
    normalizer, types = describe_normalizer(source.data, source.folder), _types(source)
    return {
        MODEL: "llama",
        PRE: "default",
        TOKENS: _with_plain_spaces(source.tokens, types),
        SCORES: np.array(scores, np.float32),
        TOKEN_TYPE: types,
        f"{PREFIX}add_space_prefix": normalizer.space_prefix,
    }


def _unigram(source: Source) -> dict[str, Any]:
    scores = dict(source.model["vocab"])
    normalizer, types = describe_normalizer(source.data, source.folder), _types(source)
    keys = {
        MODEL: "t5",
        PRE: "default",
        TOKENS: _with_plain_spaces(source.tokens, types),
        SCORES: np.array([scores.get(text, 0.0) for text in source.tokens], np.float32),
        TOKEN_TYPE: types,
        f"{PREFIX}add_space_prefix": normalizer.space_prefix,
        f"{PREFIX}remove_extra_whitespaces": normalizer.merges_spaces,
    }
    if normalizer.charsmap:
        keys[f"{PREFIX}precompiled_charsmap"] = np.frombuffer(normalizer.charsmap, np.uint8)
    return keys


KINDS: Mapping[str, Callable[[Source], dict[str, Any]]] = {
    "BPE": _byte_pairs,
    "Unigram": _unigram,
}


def _with_plain_spaces(tokens: list[str], types: np.ndarray) -> list[str]:
    """Tokens that are found in a text as it is are written as it is."""
    found = types == TokenType.USER_DEFINED
    return [
        text.replace(SPACE, " ") if plain else text
        for text, plain in zip(tokens, found.tolist(), strict=True)
    ]


def _types(source: Source) -> np.ndarray:
    unknown = _unknown(source)
    has_bytes = bool(source.model.get("byte_fallback"))
    types = []
    for index, text in enumerate(source.tokens):
        entry = source.added.get(index)
        kind = TokenType.NORMAL
        if index == unknown:
            kind = TokenType.UNKNOWN
        elif entry is not None:
            kind = TokenType.CONTROL if entry.get("special") else TokenType.USER_DEFINED
        elif has_bytes and BYTE_TOKEN.fullmatch(text):
            kind = TokenType.BYTE
        elif text == f"[PAD{index}]":
            kind = TokenType.UNUSED
        types.append(int(kind))
    return np.array(types, np.int32)


def _unknown(source: Source) -> int | None:
    if "unk_id" in source.model:
        found: int | None = source.model["unk_id"]
        return found
    text = source.model.get("unk_token")
    return None if text is None else source.backend.token_to_id(text)


def _special_ids(source: Source) -> dict[str, Any]:
    """Ids of special tokens, and whether they surround every text (which is tried out)."""
    keys: dict[str, Any] = dict(
        special_ids(source.folder, source.backend.token_to_id, {"unknown": _unknown(source)})
    )
    bare = source.backend.encode("a", add_special_tokens=False).ids
    ids = source.backend.encode("a", add_special_tokens=True).ids
    surrounded = len(ids) > len(bare)
    bos, eos = (keys.get(f"{PREFIX}{name}_token_id") for name in ("bos", "eos"))
    keys[f"{PREFIX}add_bos_token"] = surrounded and ids[0] == bos
    keys[f"{PREFIX}add_eos_token"] = surrounded and ids[-1] == eos
    return keys
