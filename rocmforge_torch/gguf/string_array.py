"""A GGUF array of strings that stays in the file until somebody looks at it."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from rocmforge_torch.gguf.cursor import Buffer, Cursor, check_utf8

PREFIX = 8  # bytes of a string's length
CHECK_STRINGS = 1 << 14


class StringArray(Sequence[str]):
    """Strings of an array, decoded on access.

    Costs 8 bytes a string beside the file itself, which already spends 8 on each string's length.
    """

    __slots__ = ("_buffer", "_starts")

    def __init__(self, buffer: Buffer, starts: npt.NDArray[np.uint64]) -> None:
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
        starts = self._starts.tolist()
        for start, end in zip(starts, starts[1:], strict=False):
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
        return int(self._starts[index]) + PREFIX

    def first_without_split(self) -> int | None:
        """The first string that is no two non-empty parts joined by a space, if there is one."""
        if not len(self):
            return None
        begin, end = int(self._starts[0]), int(self._starts[-1])
        data = np.frombuffer(self._buffer, np.uint8, end - begin, begin)
        spaces = np.append(np.flatnonzero(data == ord(" ")), end - begin)
        starts = self._starts.astype(np.int64) - begin
        # The first space after the first byte, as llama.cpp looks for it, has text behind it.
        space = spaces[np.searchsorted(spaces, starts[:-1] + PREFIX + 1)]
        bad = np.flatnonzero(space >= starts[1:] - 1)
        return int(bad[0]) if len(bad) else None

    def _decode(self, index: int) -> str:
        start, end = self._starts[index : index + 2].tolist()
        return self._buffer[start + PREFIX : end].decode("utf-8")


def read_strings(cursor: Cursor, count: int) -> StringArray:
    """Read ``count`` strings at the cursor: walk their lengths, check their UTF-8."""
    cursor.need(count * PREFIX, f"an array of {count} strings")
    starts = np.frombuffer(_walk(cursor, count), np.uint64)
    strings = StringArray(cursor.buffer, starts)
    for first in range(0, count, CHECK_STRINGS):
        _check(cursor, starts[first : first + CHECK_STRINGS + 1], first)
    cursor.pos = int(starts[-1])
    return strings


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


def _check(cursor: Cursor, starts: npt.NDArray[np.uint64], first: int) -> None:
    """Check the UTF-8 of neighbouring strings at once, with their lengths blanked out."""
    begin, end = int(starts[0]), int(starts[-1])
    data = np.frombuffer(cursor.buffer, np.uint8, end - begin, begin).copy()
    prefixes = (starts[:-1] - np.uint64(begin)).astype(np.int64)
    for byte in range(PREFIX):
        data[prefixes + byte] = 0
    check_utf8(cursor, memoryview(data), begin, f"a string at or after number {first}")
