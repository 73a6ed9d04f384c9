"""One GGUF file: opened once, mapped, parsed once."""

from __future__ import annotations

import mmap
import os
import stat
import sys
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path

from .checks import check_metadata
from .cursor import Buffer
from .errors import GGUFError
from .reader import Header, read_header

# How often this process opened a GGUF file ("opens") and parsed a header ("header_parses").
COUNTERS: Counter[str] = Counter()

# A private mapping may be written to, so without this flag Linux would count it as memory and
# refuse a file larger than RAM. Python names it since 3.13; the number is the one of x86 and ARM.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class Shard:
    """One file: its parsed header and its bytes.

    Attributes:
        header: the parsed header.
        buffer: the bytes, mapped.
        path: where the file is; None for bytes in memory.
        state: what tells that file from another or a changed one.
    """

    header: Header
    buffer: Buffer
    path: Path | None = None
    state: tuple[int, ...] = ()


def open_buffer(buffer: Buffer, source: str) -> Shard:
    """Parse and check the bytes of one GGUF file.

    Raises:
        GGUFError: they are no valid GGUF.
    """
    COUNTERS["header_parses"] += 1
    header = read_header(buffer, source)
    check_metadata(header)
    return Shard(header, buffer)


def open_shard(path: Path) -> Shard:
    """Open, map, parse and check one file.

    Raises:
        GGUFError: it is no valid GGUF.
        OSError: it cannot be opened.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
        raise GGUFError("is no regular file", source=str(path), subject="header", offset=0)
    with path.open("rb") as file:
        COUNTERS["opens"] += 1
        state = _state(file.fileno())
        if os.fstat(file.fileno()).st_size == 0:
            raise GGUFError("the file is empty", source=str(path), subject="header", offset=0)
        shard = open_buffer(_map(file.fileno()), str(path))
        return replace(shard, path=path, state=state)


def reopen(shard: Shard) -> int:
    """A descriptor of the shard's file to read tensors from, for the caller to close.

    Reading beats the mapped pages where bytes are only passed on: none of them count as memory of
    this process, and threads read large pieces without a fault a page.

    Raises:
        GGUFError: the path now leads to another file, or the file has changed.
        OSError: it cannot be opened.
    """
    assert shard.path is not None, "bytes in memory are not loaded from a file"
    fileno = os.open(shard.path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    if _state(fileno) != shard.state:
        os.close(fileno)
        problem = "the file has changed since it was opened; load it again"
        raise GGUFError(problem, source=shard.header.source, subject="header", offset=0)
    return fileno


def _state(fileno: int) -> tuple[int, ...]:
    found = os.fstat(fileno)
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _map(fileno: int) -> mmap.mmap:
    """The file's pages, copied when written to."""
    if sys.platform == "win32":
        return mmap.mmap(fileno, 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | _NORESERVE
    return mmap.mmap(fileno, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
