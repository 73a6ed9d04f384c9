"""Metadata values: numbers, strings and arrays of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from .cursor import MAX_NESTED_ARRAYS, Cursor
from .string_array import read_strings

# GGUF value type -> (name, struct format). A bool is a byte that holds 0 or 1.
NUMBERS = {
    0: ("uint8", "B"),
    1: ("int8", "b"),
    2: ("uint16", "H"),
    3: ("int16", "h"),
    4: ("uint32", "I"),
    5: ("int32", "i"),
    6: ("float32", "f"),
    7: ("bool", "B"),
    10: ("uint64", "Q"),
    11: ("int64", "q"),
    12: ("float64", "d"),
}
UINT32 = 4
BOOL = 7
STRING = 8
ARRAY = 9

ARRAY_HEADER_BYTES = 12  # element type and count
MAX_DEPTH = 4


def read_value(cursor: Cursor, value_type: int) -> Any:
    """Read the value of a key.

    Returns:
        ``int``, ``float``, ``bool`` or ``str``; for arrays a read-only numpy array (the file's own
        bytes where they have the machine's order), a :class:`StringArray`, or a tuple of arrays.
    """
    if value_type == STRING:
        return cursor.string("the value")
    if value_type == ARRAY:
        return _read_array(cursor, depth=1)
    if value_type not in NUMBERS:
        raise cursor.error(f"unknown value type {value_type}", cursor.pos - 4)
    name, code = NUMBERS[value_type]
    at = cursor.pos
    value = cursor.number(code, f"a {name} value")
    if value_type != BOOL:
        return value
    if value > 1:
        raise cursor.error(f"a bool must be 0 or 1, it is {value}", at)
    return bool(value)


def _read_array(cursor: Cursor, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise cursor.error(f"arrays are nested deeper than {MAX_DEPTH}")
    at = cursor.pos
    element_type = cursor.number("I", "the element type of an array")
    count = cursor.number("Q", "the length of an array")
    if element_type in NUMBERS:
        return _read_numbers(cursor, element_type, count)
    if element_type == STRING:
        return read_strings(cursor, count)
    if element_type != ARRAY:
        raise cursor.error(f"unknown element type {element_type} of an array", at)
    cursor.need(count * ARRAY_HEADER_BYTES, f"an array of {count} arrays")
    cursor.nested_arrays += count
    if cursor.nested_arrays > MAX_NESTED_ARRAYS:
        raise cursor.error(f"more than {MAX_NESTED_ARRAYS} nested arrays", at)
    return tuple(_read_array(cursor, depth + 1) for _ in range(count))


def _read_numbers(cursor: Cursor, element_type: int, count: int) -> npt.NDArray[Any]:
    name, code = NUMBERS[element_type]
    dtype = np.dtype(cursor.order + code)
    cursor.need(count * dtype.itemsize, f"an array of {count} {name} values")
    values = np.frombuffer(cursor.buffer, dtype, count, cursor.pos)
    if element_type == BOOL:
        if count and values.max() > 1:
            at = cursor.pos + int(np.argmax(values > 1))
            raise cursor.error("an array of bools holds a byte that is not 0 or 1", at)
        values = values.view(np.bool_)
    else:
        values = values.astype(dtype.newbyteorder("="), copy=False)
    cursor.pos += values.nbytes
    values.flags.writeable = False
    return values
