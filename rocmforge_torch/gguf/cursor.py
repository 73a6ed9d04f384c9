"""Bounds-checked reading of a buffer that nobody trusts."""

from __future__ import annotations

import codecs
import mmap
import struct
from typing import Any

from .errors import GGUFError

Buffer = bytearray | mmap.mmap

MAX_NAME_BYTES = 65535  # the GGUF specification's limit for keys
MAX_NESTED_ARRAYS = 1 << 16  # in one file; each costs a Python object
UTF8_CHUNK = 1 << 20

_STRUCTS = {order + code: struct.Struct(order + code) for order in "<>" for code in "BbHhIifQqd"}


class Cursor:
    """A position in a buffer; every read is checked against the buffer's end first.

    Attributes:
        buffer: the whole file.
        size: its length in bytes.
        order: ``"<"`` or ``">"``, as in :mod:`struct`.
        pos: the next byte to read.
        subject: what is being read, for messages.
        nested_arrays: how many arrays inside arrays have been met.
    """

    __slots__ = ("buffer", "nested_arrays", "order", "pos", "size", "source", "subject")

    def __init__(self, buffer: Buffer, source: str) -> None:
        self.buffer = buffer
        self.size = len(buffer)
        self.source = source
        self.order = "<"
        self.pos = 0
        self.subject = "header"
        self.nested_arrays = 0

    def error(self, problem: str, at: int | None = None) -> GGUFError:
        """The exception for ``problem`` in the current subject, found at byte ``at``."""
        return GGUFError(
            problem,
            source=self.source,
            subject=self.subject,
            offset=self.pos if at is None else at,
        )

    def need(self, count: int, what: str) -> None:
        """Raise unless ``count`` more bytes follow."""
        if count > self.size - self.pos:
            raise self.error(
                f"{what} needs {count} bytes, but the file has {self.size - self.pos} left "
                f"of its {self.size}"
            )

    def number(self, code: str, what: str) -> Any:
        """Read one number of the :mod:`struct` format ``code``."""
        packed = _STRUCTS[self.order + code]
        self.need(packed.size, what)
        (value,) = packed.unpack_from(self.buffer, self.pos)
        self.pos += packed.size
        return value

    def string(self, what: str, max_bytes: int | None = None) -> str:
        """Read a length (uint64) and that many bytes of UTF-8."""
        at = self.pos
        length = self.number("Q", f"the length of {what}")
        if max_bytes is not None and length > max_bytes:
            raise self.error(f"{what} has {length} bytes, at most {max_bytes} are allowed", at)
        self.need(length, what)
        raw = self.buffer[self.pos : self.pos + length]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as failure:
            at = self.pos + failure.start
            raise self.error(f"{what} is not UTF-8 ({failure.reason})", at) from None
        self.pos += length
        return text


def check_utf8(cursor: Cursor, data: memoryview, at: int, what: str) -> None:
    """Raise unless ``data``, which begins at byte ``at`` of the file, is UTF-8.

    Works in pieces, so that it needs no memory worth mentioning.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(data), UTF8_CHUNK):
        pending = len(decoder.getstate()[0])
        piece = data[start : start + UTF8_CHUNK]
        try:
            decoder.decode(piece, final=start + UTF8_CHUNK >= len(data))
        except UnicodeDecodeError as failure:
            where = at + start - pending + failure.start
            raise cursor.error(f"{what} is not UTF-8 ({failure.reason})", where) from None
