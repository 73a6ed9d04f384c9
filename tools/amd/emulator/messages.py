"""What the emulating process and its parent say to each other."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class Buffer:
    """Memory that a launch is given. offset: bytes that its start lies past an aligned address."""

    array: NDArray[Any]
    writable: bool
    offset: int = 0
    number: int = -1


@dataclass
class Struct:
    """A struct that a launcher takes by reference: the ctypes name and value of every field.

    A field called "struct" is a Struct inside it.
    """

    fields: list[tuple[str, Buffer | Struct | int | float]]

    def buffers(self) -> list[Buffer]:
        """Every buffer in it, in order."""
        values = [value for _, value in self.fields]
        inside = [v.buffers() if isinstance(v, Struct) else [v] for v in values]
        return [v for group in inside for v in group if isinstance(v, Buffer)]

    def placed(self, address: Callable[[Buffer], int]) -> ctypes.Structure:
        """As C has it, with the addresses of its buffers."""
        fields: list[Any] = [
            f.placed(address)
            if isinstance(f, Struct)
            else address(f)
            if isinstance(f, Buffer)
            else f
            for _, f in self.fields
        ]
        kinds = [
            type(field) if isinstance(field, ctypes.Structure) else getattr(ctypes, kind)
            for field, (kind, _) in zip(fields, self.fields, strict=True)
        ]
        names = [(f"field{i}", kind) for i, kind in enumerate(kinds)]
        return type("Layout", (ctypes.Structure,), {"_fields_": names})(*fields)


Value = Buffer | Struct | int | float | bytes


@dataclass
class Direct:
    """One kernel, launched as it is. values: buffers, or the bytes of by-value arguments."""

    code: Path
    symbol: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    lds_bytes: int
    buffers: list[Buffer]
    values: list[Value]


@dataclass
class Call:
    """A launcher, called with values of the named ctypes types; its launches are emulated."""

    codes: list[Path]
    runtime: Path
    library: Path
    symbol: str
    buffers: list[Buffer]
    types: list[str]
    values: list[Value]


@dataclass(frozen=True)
class LaunchRecord:
    """One launch that happened."""

    arch: str
    kernel: str
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    lds_bytes: int


@dataclass
class Answer:
    """arrays: every buffer afterwards. By buffer, of loads: distinct cache lines; how many a wave
    executed; the sum of the lines that each touched. Of LDS: accesses of waves and their conflicts.
    """

    arrays: list[NDArray[Any]]
    launches: list[LaunchRecord]
    counts: Counter[str]
    lines: dict[int, int] = field(default_factory=dict)
    loads: Counter[int] = field(default_factory=Counter)
    requests: Counter[int] = field(default_factory=Counter)
    lds_accesses: int = 0
    lds_conflicts: int = 0


@dataclass(frozen=True)
class Failure:
    """Why there is no answer."""

    message: str


def poisoned(shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    """An array of bits that are NaN in every float type and -1 in every signed one."""
    array: NDArray[Any] = np.empty(shape, dtype)
    array.view(np.uint8)[...] = 0xFF
    return array
