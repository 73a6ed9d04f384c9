"""SentencePiece's model files (`tokenizer.model`), read without its library.

Such a file is one message in protocol buffers' wire format. The numbers of its fields are those of
`sentencepiece_model.proto`, which SentencePiece promises to keep.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

VARINT, EIGHT_BYTES, BYTES, FOUR_BYTES = 0, 1, 2, 5  # kinds of values on the wire
MODEL_TYPES = {1: "unigram", 2: "bpe", 3: "word", 4: "char"}
PIECES, TRAINER, NORMALIZER = 1, 2, 3
NORMAL, CONTROL = 1, 3  # of the types of pieces, which have GGUF's numbers


@dataclass(frozen=True)
class Piece:
    """A token: its text, its score, and its type with GGUF's number (`TokenType`)."""

    text: str
    score: float
    type: int


@dataclass(frozen=True)
class SentencePieceFile:
    """What a file says.

    Attributes:
        pieces: by id.
        model_type: unigram, bpe, word or char.
        special: the id of bos, eos, padding and unknown, of those that it has.
        charsmap: compiled rules of normalization; empty if there are none.
        space_prefix: a space is put in front of every text.
        merges_spaces: runs of spaces become one, those at the ends none.
        escapes_spaces: spaces are written as "▁".
        space_behind: "▁" stands behind a word instead of in front of it.
    """

    pieces: tuple[Piece, ...]
    model_type: str
    special: dict[str, int]
    charsmap: bytes
    space_prefix: bool
    merges_spaces: bool
    escapes_spaces: bool
    space_behind: bool


def read_sentencepiece(data: bytes) -> SentencePieceFile:
    """Parse a whole file.

    Raises:
        ValueError: it is no SentencePiece model; the message tells the byte.
    """
    pieces: list[Piece] = []
    trainer: dict[int, Any] = {}
    normalizer: dict[int, Any] = {}
    for number, value, at in _fields(data):
        if number == PIECES:
            pieces.append(_piece(_inner(value, at), at))
        elif number == TRAINER:
            trainer |= _last(_inner(value, at), at)
        elif number == NORMALIZER:
            normalizer |= _last(_inner(value, at), at)
    if not pieces:
        raise ValueError("it has no pieces, so this is no SentencePiece model")
    kind = MODEL_TYPES.get(trainer.get(3, 1))
    if kind is None:
        raise ValueError(f"model type {trainer[3]!r} is none of SentencePiece's")
    ids = {piece.text: i for i, piece in enumerate(pieces) if piece.type == CONTROL}
    names = {"bos": (46, b"<s>"), "eos": (47, b"</s>"), "padding": (48, b"<pad>")}
    texts = {name: trainer.get(field, text) for name, (field, text) in names.items()}
    special = {
        name: ids[text.decode("utf-8", "replace")]
        for name, text in texts.items()
        if isinstance(text, bytes) and text.decode("utf-8", "replace") in ids
    }
    unknown = next((i for i, piece in enumerate(pieces) if piece.type == 2), None)
    if unknown is not None:
        special["unknown"] = unknown
    charsmap = normalizer.get(2, b"")
    return SentencePieceFile(
        pieces=tuple(pieces),
        model_type=kind,
        special=special,
        charsmap=charsmap if isinstance(charsmap, bytes) else b"",
        space_prefix=bool(normalizer.get(3, True)),
        merges_spaces=bool(normalizer.get(4, True)),
        escapes_spaces=bool(normalizer.get(5, True)),
        space_behind=bool(trainer.get(24, False)),
    )


def _piece(message: bytes, start: int) -> Piece:
    fields = dict(_last(message, start))
    text, score, kind = fields.get(1, b""), fields.get(2, 0.0), fields.get(3, NORMAL)
    if not isinstance(text, bytes) or not isinstance(score, float) or kind not in range(1, 7):
        raise ValueError(f"the message at byte {start} is no piece")
    return Piece(text.decode("utf-8", "replace"), score, kind)


def _last(message: bytes, start: int) -> Iterator[tuple[int, Any]]:
    for number, value, _ in _fields(message, start):
        yield number, value


def _inner(value: Any, at: int) -> bytes:
    if not isinstance(value, bytes):
        raise ValueError(f"the field at byte {at} is no message")
    return value


def _fields(message: bytes, start: int = 0) -> Iterator[tuple[int, Any, int]]:
    """(number, value, byte of the file) of every field of a message that begins at byte `start`:
    an int, a float of four bytes, or bytes."""
    at = 0
    while at < len(message):
        key, after = _varint(message, at, start)
        number, kind = key >> 3, key & 7
        value: Any
        if kind == VARINT:
            value, end = _varint(message, after, start)
        elif kind == BYTES:
            size, after = _varint(message, after, start)
            end = after + size
            value = message[after:end]
        elif kind in (FOUR_BYTES, EIGHT_BYTES):
            end = after + (4 if kind == FOUR_BYTES else 8)
            value = message[after:end]
        else:
            raise ValueError(f"no SentencePiece model: a field of kind {kind} at byte {start + at}")
        if end > len(message):
            raise ValueError(f"the field at byte {start + at} ends behind its message")
        if kind == FOUR_BYTES:
            (value,) = struct.unpack("<f", value)
        yield number, value, start + after
        at = end


def _varint(message: bytes, at: int, start: int) -> tuple[int, int]:
    """The number at byte `at`, and where it ends."""
    if at < len(message) and message[at] < 0x80:
        return message[at], at + 1  # nearly always
    value = 0
    for i, byte in enumerate(message[at : at + 10]):
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError(f"no number ends at byte {start + at}")
