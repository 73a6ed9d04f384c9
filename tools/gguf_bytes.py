"""Writes GGUF files field by field, so that every field of them can be wrong.

The layout is spelled out here once more, from the specification, on purpose: the parser's tests
must not share its code. A value is a tuple: ``("u32", 7)``, ``("str", "text")``,
``("arr", "i32", [1, 2])``, ``("arr", "arr", [("arr", "u8", [1])])``; ``("raw", type, bytes)`` is
anything. Strings and arrays take one more item, a length to claim instead of the true one.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

Value = tuple[Any, ...]

CODES = {
    "u8": (0, "B"),
    "i8": (1, "b"),
    "u16": (2, "H"),
    "i16": (3, "h"),
    "u32": (4, "I"),
    "i32": (5, "i"),
    "f32": (6, "f"),
    "bool": (7, "B"),
    "u64": (10, "Q"),
    "i64": (11, "q"),
    "f64": (12, "d"),
}
STRING = 8
ARRAY = 9


@dataclass
class Tensor:
    """An entry of the tensor table; ``dims`` as the file counts them, fastest first."""

    name: str | bytes
    dims: Sequence[int] = (8,)
    type: int = 0
    offset: int = 0
    num_dims: int | None = None
    name_length: int | None = None


@dataclass
class File:
    """A GGUF file; counts and lengths are true unless given."""

    keys: list[tuple[str | bytes | tuple[bytes, int], Value]] = field(default_factory=list)
    tensors: list[Tensor] = field(default_factory=list)
    data: bytes = b""
    order: str = "<"
    version: int = 3
    magic: bytes = b"GGUF"
    num_keys: int | None = None
    num_tensors: int | None = None
    padding: int = 32

    def header(self) -> bytes:
        """Everything before the padding."""
        out = [
            self.magic,
            self._number("I", self.version),
            self._number("Q", len(self.tensors) if self.num_tensors is None else self.num_tensors),
            self._number("Q", len(self.keys) if self.num_keys is None else self.num_keys),
        ]
        for name, value in self.keys:
            text, length = name if isinstance(name, tuple) else (name, None)
            out += [self._string(text, length), *self._value(value)]
        for tensor in self.tensors:
            num_dims = len(tensor.dims) if tensor.num_dims is None else tensor.num_dims
            out += [
                self._string(tensor.name, tensor.name_length),
                self._number("I", num_dims),
                *(self._number("Q", size) for size in tensor.dims),
                self._number("I", tensor.type),
                self._number("Q", tensor.offset),
            ]
        return b"".join(out)

    def pack(self) -> bytearray:
        """The whole file."""
        header = self.header()
        pad = bytes(-len(header) % self.padding) if self.data else b""
        return bytearray(header + pad + self.data)

    def _number(self, code: str, value: float) -> bytes:
        if code not in "fd":
            value = int(value) % (1 << 8 * struct.calcsize("<" + code))
            code = code.upper()
        return struct.pack(self.order + code, value)

    def _string(self, text: str | bytes, length: int | None = None) -> bytes:
        raw = text.encode() if isinstance(text, str) else text
        return self._number("Q", len(raw) if length is None else length) + raw

    def _value(self, value: Value) -> list[bytes]:
        kind, *rest = value
        if kind == "raw":
            return [self._number("I", rest[0]), rest[1]]
        return [self._number("I", self._type_id(kind)), self._payload(kind, rest)]

    def _payload(self, kind: str, rest: Sequence[Any]) -> bytes:
        if kind == "str":
            return self._string(*rest)
        if kind != "arr":
            return self._number(CODES[kind][1], rest[0])
        element, items, *count = rest
        packed = [self._number("I", self._type_id(element))]
        packed.append(self._number("Q", count[0] if count else len(items)))
        for item in items:
            nested = item[1:] if isinstance(item, tuple) else (item,)
            packed.append(item if isinstance(element, int) else self._payload(element, nested))
        return b"".join(packed)

    @staticmethod
    def _type_id(kind: str | int) -> int:
        if isinstance(kind, int):
            return kind
        return {"str": STRING, "arr": ARRAY}.get(kind) or CODES[kind][0]
