"""SentencePiece's compiled normalization rules (``tokenizer.ggml.precompiled_charsmap``).

The blob is a 32-bit length, a double-array trie of that many bytes over UTF-8 (the layout of the
library Darts-clone), and replacement texts, each ended by a zero byte. The longest rule that
matches at a place wins; what no rule matches stays as it is.
"""

from __future__ import annotations

import re

import numpy as np

from .fields import CHARSMAP, Metadata, get_numbers, key_error

HEADER_BYTES = 4
VALUE_MASK = (1 << 31) - 1
LABEL_MASK = (1 << 31) | 0xFF
HAS_VALUE = 1 << 8


class CharsMap:
    """Rewrites text by compiled rules.

    Raises:
        GGUFError: a part of the blob lies outside it.
    """

    def __init__(self, blob: bytes) -> None:
        size = int.from_bytes(blob[:HEADER_BYTES], "little")
        end = HEADER_BYTES + size
        if len(blob) < HEADER_BYTES or size % 4 or not 0 < size <= len(blob) - HEADER_BYTES:
            raise key_error(CHARSMAP, f"a trie of {size} bytes in {len(blob)}")
        units = np.frombuffer(blob, np.dtype("<u4"), size // 4, HEADER_BYTES)
        self._units: list[int] = units.tolist()
        self._texts = blob[end:]
        root = _offset(self._units[0])
        firsts = bytes(
            byte for byte in range(1, 256) if self._unit(root ^ byte) & LABEL_MASK == byte
        )
        self._first_byte = re.compile(b"[" + re.escape(firsts) + b"]" if firsts else b"(?!)")
        self._root = root

    def normalize(self, text: str) -> str:
        """``text`` with every rule applied, from left to right."""
        data, done, out = text.encode(), 0, []
        while found := self._first_byte.search(data, done):
            at = found.start()
            length, value = self._longest(data, at)
            out.append(data[done:at])
            if length:
                out.append(self._replacement(value))
            else:  # no rule: keep this character
                length = 1 if data[at] < 0x80 else _utf8_length(data[at])
                out.append(data[at : at + length])
            done = at + length
        out.append(data[done:])
        return b"".join(out).decode("utf-8", errors="replace")

    def _longest(self, data: bytes, at: int) -> tuple[int, int]:
        """The length and the value of the longest rule at ``at``; length 0 where none matches."""
        node, best = self._root, (0, 0)
        for end in range(at, len(data)):
            node ^= data[end]
            unit = self._unit(node)
            if not data[end] or unit & LABEL_MASK != data[end]:
                break
            node ^= _offset(unit)
            if unit & HAS_VALUE:
                best = (end + 1 - at, self._unit(node) & VALUE_MASK)
        return best

    def _unit(self, index: int) -> int:
        return self._units[index] if index < len(self._units) else 0

    def _replacement(self, begin: int) -> bytes:
        end = self._texts.find(b"\0", begin)
        if end < 0:
            raise key_error(CHARSMAP, f"a rule's text at byte {begin} has no end")
        return self._texts[begin:end]


def _offset(unit: int) -> int:
    return (unit >> 10) << ((unit & 0x200) >> 6)


def _utf8_length(first: int) -> int:
    return 2 if first < 0xE0 else 3 if first < 0xF0 else 4


def read_charsmap(metadata: Metadata) -> CharsMap | None:
    """The rules of the file, ``None`` where it has none."""
    value = metadata.get(CHARSMAP)
    if value is None:
        return None
    if not isinstance(value, bytes):
        count = len(value) if hasattr(value, "__len__") else 0
        numbers = get_numbers(metadata, CHARSMAP, count, "iu")
        assert numbers is not None
        if count and not -128 <= numbers.min() <= numbers.max() <= 255:
            raise key_error(CHARSMAP, "must be an array of bytes")
        value = (numbers.astype(np.int64) & 0xFF).astype(np.uint8).tobytes()
    return CharsMap(value) if value else None
