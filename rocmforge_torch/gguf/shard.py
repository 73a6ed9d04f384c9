"""One GGUF file: opened once, mapped, parsed once."""

from __future__ import annotations

import mmap
import os
import stat
import sys
from collections import Counter
from dataclasses import dataclass
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
    """One file: its parsed header and its bytes."""

    header: Header
    buffer: Buffer


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
        if os.fstat(file.fileno()).st_size == 0:
            raise GGUFError("the file is empty", source=str(path), subject="header", offset=0)
        return open_buffer(_map(file.fileno()), str(path))


def _map(fileno: int) -> mmap.mmap:
    """The file's pages, copied when written to."""
    if sys.platform == "win32":
        return mmap.mmap(fileno, 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | _NORESERVE
    return mmap.mmap(fileno, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
