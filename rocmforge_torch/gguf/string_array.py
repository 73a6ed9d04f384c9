"""A GGUF array of strings that stays in the file until somebody looks at it."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from .cursor import Buffer, Cursor, check_utf8

PREFIX = 8  # bytes of a string's length
CHECK_STRINGS = 1 << 14


class StringArray(Sequence[str]):
    """Strings of an array, decoded on access.

    Costs 8 bytes a string beside the file itself, which already spends 8 on each string's length.
    """

    __slots__ = ("_buffer", "_starts")

    def __init__(self, buffer: Buffer, starts: array[int]) -> None:
        """``starts`` [n + 1]: where each length prefix begins, and the end of the last string."""
        self._buffer = buffer
        self._starts = starts

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._decode(i) for i in range(*index.indices(len(self)))]
        return self._decode(range(len(self))[index])

    def __iter__(self) -> Iterator[str]:
        buffer = self._buffer
        for start, end in pairwise(self._starts):
            yield buffer[start + PREFIX : end].decode("utf-8")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, StringArray | list | tuple):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __hash__(self) -> int:
        return hash((id(self._buffer), len(self)))

    def __repr__(self) -> str:
        return f"StringArray({len(self)} strings)"

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (self.tolist(),)

    def tolist(self) -> list[str]:
        """All strings at once."""
        return list(self)

    def start_of(self, index: int) -> int:
        """The byte of the file where string ``index`` begins (after its length)."""
        return self._starts[index] + PREFIX

    def first_without_split(self) -> int | None:
        """The first string that is no two non-empty parts joined by a space, if there is one."""
        find = self._buffer.find
        for index, (start, end) in enumerate(pairwise(self._starts)):
            # As llama.cpp does it: the first space after the first byte splits.
            if find(b" ", start + PREFIX + 1, end - 1) < 0:
                return index
        return None

    def _decode(self, index: int) -> str:
        start, end = self._starts[index], self._starts[index + 1]
        return self._buffer[start + PREFIX : end].decode("utf-8")


def read_strings(cursor: Cursor, count: int) -> StringArray:
    """Read ``count`` strings at the cursor: walk their lengths, check their UTF-8."""
    cursor.need(count * PREFIX, f"an array of {count} strings")
    starts = _walk(cursor, count)
    for first in range(0, count, CHECK_STRINGS):
        _check(cursor, np.array(starts[first : first + CHECK_STRINGS + 1], np.int64), first)
    cursor.pos = starts[-1]
    return StringArray(cursor.buffer, starts)


def _walk(cursor: Cursor, count: int) -> array[int]:
    """Where every string begins, and where the last one ends; nothing but lengths is read."""
    starts = array("Q", [cursor.pos])
    append, buffer, end = starts.append, cursor.buffer, cursor.size
    unpack_length = struct.Struct(cursor.order + "Q").unpack_from
    pos = cursor.pos
    for index in range(count):
        if pos + PREFIX > end:
            raise cursor.error(f"the length of string {index} of {count} lies past the end", pos)
        stop = pos + PREFIX + unpack_length(buffer, pos)[0]
        if stop > end:
            raise cursor.error(
                f"string {index} of {count} has {stop - pos - PREFIX} bytes, but the file has "
                f"{end - pos - PREFIX} left",
                pos,
            )
        pos = stop
        append(pos)
    return starts


def _check(cursor: Cursor, starts: npt.NDArray[np.int64], first: int) -> None:
    """Check the UTF-8 of neighbouring strings at once, with their lengths blanked out."""
    begin, end = int(starts[0]), int(starts[-1])
    data = np.frombuffer(cursor.buffer, np.uint8, end - begin, begin).copy()
    prefixes = starts[:-1] - begin
    for byte in range(PREFIX):
        data[prefixes + byte] = 0
    check_utf8(cursor, memoryview(data), begin, f"a string at or after number {first}")
