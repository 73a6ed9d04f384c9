"""Parser of the GGUF header: the key-value pairs and the table of tensors.

The layout is the one of the GGUF specification (ggml's ``docs/gguf.md``), versions 2 and 3. A file
is untrusted: every length, count, offset, type and dimension is compared with the file's size
before it is used, so work and memory stay proportional to the bytes that are really there.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from ..quant_types import QUANT_TYPES, QuantType
from .cursor import MAX_NAME_BYTES, Buffer, Cursor
from .errors import GGUFError, quote
from .values import UINT32, read_value

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY = "general.alignment"
DEFAULT_ALIGNMENT = 32
MAX_ALIGNMENT = 1 << 30
MAX_DIMS = 5  # ggml's tensors have four; files of video models hold kernels of three dimensions
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 16
MIN_KEY_BYTES = 8 + 1 + 4 + 1  # length, name, value type, value
MIN_TENSOR_BYTES = 8 + 1 + 4 + 4 + 8  # length, name, dimension count, type, offset


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a tensor lies in its file.

    Attributes:
        name: its name.
        qtype: its GGML type.
        shape: its size as torch counts it, slowest dimension first (the file has the reverse).
        offset: the byte of the file that its data begins at.
        nbytes: the bytes of its data.
        entry: the byte of the file that its entry in the tensor table begins at.
    """

    name: str
    qtype: QuantType
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    entry: int


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header.

    Attributes:
        source: the file's name, for messages.
        version: 2 or 3.
        order: ``"<"`` or ``">"``, the file's byte order.
        metadata: the values by key (see :func:`rocmforge_torch.gguf.values.read_value`).
        offsets: the byte of the file that each key's value begins at.
        tensors: the tensors by name, in the file's order.
    """

    source: str
    version: int
    order: str
    metadata: dict[str, Any]
    offsets: dict[str, int]
    tensors: dict[str, TensorInfo]

    def error(self, key: str, problem: str, offset: int | None = None) -> GGUFError:
        """The exception for ``problem`` in the value of ``key``."""
        at = self.offsets.get(key) if offset is None else offset
        return GGUFError(problem, source=self.source, subject=f"key {quote(key)}", offset=at)


def read_header(buffer: Buffer, source: str) -> Header:
    """Parse the header of a GGUF file.

    Args:
        buffer: the whole file.
        source: its name, for messages.

    Raises:
        GGUFError: the file is no valid GGUF of version 2 or 3.
    """
    cursor = Cursor(buffer, source)
    version = _read_version(cursor)
    num_tensors = _read_count(cursor, "tensors", MAX_TENSORS, MIN_TENSOR_BYTES)
    num_keys = _read_count(cursor, "keys", MAX_KEYS, MIN_KEY_BYTES)
    metadata: dict[str, Any] = {}
    offsets: dict[str, int] = {}
    alignment = DEFAULT_ALIGNMENT
    for index in range(num_keys):
        key = _read_name(cursor, "key", index, offsets)
        value_type = cursor.number("I", "the value type")
        offsets[key] = cursor.pos
        metadata[key] = read_value(cursor, value_type)
        if key == ALIGNMENT_KEY:
            alignment = _check_alignment(cursor, metadata[key], value_type, offsets[key])
    tensors = _read_tensors(cursor, num_tensors, alignment)
    _check_overlaps(cursor, tensors.values())
    return Header(source, version, cursor.order, metadata, offsets, tensors)


def _read_version(cursor: Cursor) -> int:
    cursor.need(len(MAGIC), "the magic number")
    magic = bytes(cursor.buffer[: len(MAGIC)])
    if magic != MAGIC:
        raise cursor.error(f"a GGUF file begins with {MAGIC!r}, this one with {magic!r}")
    cursor.pos = len(MAGIC)
    version = cursor.number("I", "the version")
    if version and not version & 0xFFFF:  # no version has its low half empty: the other byte order
        cursor.order = ">"
        cursor.pos = len(MAGIC)
        version = cursor.number("I", "the version")
    if version not in VERSIONS:
        raise cursor.error(f"GGUF version {version} is not supported, only 2 and 3 are", 4)
    return int(version)


def _read_count(cursor: Cursor, what: str, limit: int, min_bytes: int) -> int:
    at = cursor.pos
    count = cursor.number("Q", f"the number of {what}")
    if count > limit:
        raise cursor.error(f"{count} {what}, at most {limit} are allowed", at)
    if count * min_bytes > cursor.size - cursor.pos:
        raise cursor.error(f"{count} {what} do not fit into a file of {cursor.size} bytes", at)
    return int(count)


def _read_name(cursor: Cursor, kind: str, index: int, known: Iterable[str]) -> str:
    """Read the name of a key or tensor and make it the cursor's subject."""
    cursor.subject = f"{kind} {index}"
    at = cursor.pos
    name = cursor.string("the name", MAX_NAME_BYTES)
    cursor.subject = f"{kind} {quote(name)}"
    if not name:
        raise cursor.error("the name is empty", at)
    if name in known:
        raise cursor.error("the name appears twice", at)
    return name


def _check_alignment(cursor: Cursor, value: Any, value_type: int, at: int) -> int:
    if value_type != UINT32:
        raise cursor.error("the alignment must be a uint32", at)
    if value % 8 or value & (value - 1) or not 0 < value <= MAX_ALIGNMENT:
        raise cursor.error(
            f"the alignment must be a power of two from 8 to {MAX_ALIGNMENT}, it is {value}", at
        )
    return int(value)


def _read_tensors(cursor: Cursor, count: int, alignment: int) -> dict[str, TensorInfo]:
    entries: dict[str, TensorInfo] = {}
    for index in range(count):
        entry = cursor.pos
        name = _read_name(cursor, "tensor", index, entries)
        entries[name] = _read_tensor(cursor, name, entry, alignment)
    data_start = cursor.pos + -cursor.pos % alignment
    for name, info in entries.items():
        entries[name] = _place(cursor, info, data_start)
    return entries


def _read_tensor(cursor: Cursor, name: str, entry: int, alignment: int) -> TensorInfo:
    """Read one entry of the tensor table; its offset still counts from the data's beginning."""
    at = cursor.pos
    num_dims = cursor.number("I", "the number of dimensions")
    if num_dims > MAX_DIMS:
        raise cursor.error(f"{num_dims} dimensions, at most {MAX_DIMS} are allowed", at)
    dims = [_read_dim(cursor, index) for index in range(num_dims)]
    at = cursor.pos
    type_id = cursor.number("I", "the type")
    qtype = QUANT_TYPES.get(type_id)
    if qtype is None:
        raise cursor.error(f"unknown tensor type {type_id}", at)
    num_elements = math.prod(dims)
    row = dims[0] if dims else 1
    if row % qtype.block_size:
        raise cursor.error(
            f"rows of {row} elements are no multiple of {qtype.name}'s block of {qtype.block_size}",
            at,
        )
    nbytes = num_elements // qtype.block_size * qtype.block_bytes
    if nbytes > cursor.size:
        raise cursor.error(
            f"{'x'.join(map(str, dims))} elements of {qtype.name} take {nbytes} bytes, "
            f"but the file has {cursor.size}",
            at,
        )
    at = cursor.pos
    offset = cursor.number("Q", "the offset")
    if offset % alignment:
        raise cursor.error(f"offset {offset} is no multiple of the alignment {alignment}", at)
    return TensorInfo(name, qtype, tuple(reversed(dims)), offset, nbytes, entry)


def _read_dim(cursor: Cursor, index: int) -> int:
    at = cursor.pos
    size = cursor.number("Q", f"dimension {index}")
    if not 0 < size < 1 << 63:
        raise cursor.error(f"dimension {index} must be from 1 to 2^63 - 1, it is {size}", at)
    return int(size)


def _place(cursor: Cursor, info: TensorInfo, data_start: int) -> TensorInfo:
    """``info`` with its offset counted from the file's beginning, which must lie in the file."""
    start = data_start + info.offset
    if start + info.nbytes > cursor.size:
        cursor.subject = f"tensor {quote(info.name)}"
        raise cursor.error(
            f"its {info.nbytes} bytes of data at byte {start} end past the file's {cursor.size}",
            info.entry,
        )
    return TensorInfo(info.name, info.qtype, info.shape, start, info.nbytes, info.entry)


def _check_overlaps(cursor: Cursor, tensors: Iterable[TensorInfo]) -> None:
    ordered = sorted(tensors, key=lambda info: info.offset)
    for first, second in pairwise(ordered):
        if first.offset + first.nbytes > second.offset:
            cursor.subject = f"tensor {quote(second.name)}"
            raise cursor.error(
                f"its data at byte {second.offset} overlaps tensor {quote(first.name)}, which "
                f"takes bytes {first.offset} to {first.offset + first.nbytes}",
                second.entry,
            )
