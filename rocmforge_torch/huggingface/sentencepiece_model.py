"""A folder's tokenizer.model, SentencePiece's own file, as GGUF keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..gguf.tokenizer.fields import CHARSMAP, PRE, PREFIX, SCORES, TOKEN_TYPE, TOKENS
from ..gguf.tokenizer.model import SPACE
from ..gguf.tokenizer.tokenizer import MODEL
from ..gguf.tokenizer.vocabulary import TokenType
from .folder import Folder
from .sentencepiece_file import SentencePieceFile, read_sentencepiece
from .special_ids import SETTINGS, special_ids

FILE, ADDED = "tokenizer.model", "added_tokens.json"
# What llama.cpp's converter gives to tokens that SentencePiece never chooses.
ADDED_SCORE, UNUSED_SCORE = -1000.0, -10000.0


@dataclass
class Row:
    """A token of the vocabulary while it is put together."""

    text: str
    score: float
    type: TokenType


def sentencepiece_metadata(folder: Folder) -> dict[str, Any]:
    """The keys `tokenizer.*` but for chat templates.

    BPE is GGUF's model "llama", unigram "t5". Tokens that transformers added stand behind
    SentencePiece's; rows of the model beyond those are unused.

    Raises:
        FolderError: the file is broken, has more tokens than the model has rows, or does something
            that has no GGUF form.
        OSError: a file cannot be read.
    """
    try:
        model = read_sentencepiece((folder.path / FILE).read_bytes())
    except ValueError as problem:
        raise folder.error(FILE, str(problem)) from None
    _check(model, folder)
    rows = _rows(model, folder)
    ids = {row.text: i for i, row in enumerate(rows)}
    settings = folder.json(SETTINGS)
    keys: dict[str, Any] = {
        MODEL: "llama" if model.model_type == "bpe" else "t5",
        PRE: "default",
        TOKENS: [_plain(row) for row in rows],
        SCORES: np.array([row.score for row in rows], np.float32),
        TOKEN_TYPE: np.array([row.type for row in rows], np.int32),
        f"{PREFIX}add_space_prefix": model.space_prefix,
        **special_ids(folder, ids.get, model.special),
    }
    if model.model_type == "unigram":
        keys[f"{PREFIX}remove_extra_whitespaces"] = model.merges_spaces
        if model.charsmap:
            keys[CHARSMAP] = np.frombuffer(model.charsmap, np.uint8)
    # Readers of GGUF know what is usual for either model where the folder does not say.
    for name in ("add_bos_token", "add_eos_token"):
        if isinstance(settings.get(name), bool):
            keys[PREFIX + name] = settings[name]
    return keys


def _check(model: SentencePieceFile, folder: Folder) -> None:
    bpe = model.model_type == "bpe"
    reasons = (
        (model.model_type in ("word", "char"), f"a model of type {model.model_type!r}"),
        (not model.escapes_spaces, "a model that does not write spaces as a letter"),
        (model.space_behind, "a model whose words end with a space"),
        (bpe and bool(model.charsmap), "a model of byte pairs with compiled rules"),
        (bpe and model.merges_spaces, "a model of byte pairs that merges spaces"),
    )
    for applies, what in reasons:
        if applies:
            raise folder.error(FILE, f"{what} has no GGUF form")


def _rows(model: SentencePieceFile, folder: Folder) -> list[Row]:
    count = folder.config["vocab_size"]
    rows = [Row(f"[PAD{i}]", UNUSED_SCORE, TokenType.UNUSED) for i in range(count)]
    pieces = {i: Row(p.text, p.score, TokenType(p.type)) for i, p in enumerate(model.pieces)}
    added = _added(folder)
    size = max(max(pieces), max(added, default=-1)) + 1
    if size > count:
        raise folder.error(FILE, f"has {size} tokens, but the model only {count} rows for them")
    for index, row in pieces.items():
        rows[index] = row
    for index, (text, special) in added.items():
        kind = TokenType.CONTROL if special else TokenType.USER_DEFINED
        if rows[index].type == TokenType.UNUSED:
            rows[index] = Row(text, ADDED_SCORE, kind)
        elif rows[index].type in (TokenType.NORMAL, TokenType.USER_DEFINED):
            rows[index].type = kind
    return rows


def _added(folder: Folder) -> dict[int, tuple[str, bool]]:
    """id -> the text of a token that transformers finds before anything else, and whether it is a
    special one."""
    found = {
        index: (text, False)
        for text, index in folder.json(ADDED).items()
        if isinstance(index, int) and index >= 0
    }
    decoder = folder.json(SETTINGS).get("added_tokens_decoder", {})
    for index, entry in decoder.items() if isinstance(decoder, dict) else ():
        if index.isdecimal() and isinstance(entry, dict) and isinstance(entry.get("content"), str):
            found[int(index)] = (entry["content"], bool(entry.get("special")))
    return found


def _plain(row: Row) -> str:
    """Tokens that are found in a text as it is are written as it is."""
    return row.text.replace(SPACE, " ") if row.type == TokenType.USER_DEFINED else row.text
