"""Code objects inside a host library: the section `.hip_fatbin` is a row of offload bundles.

A bundle (clang's offload bundler, uncompressed): the magic, a count, then per entry its offset in
the bundle, its size and its name ("hipv4-amdgcn-amd-amdhsa--gfx1100"), all numbers u64.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

from elftools.elf.elffile import ELFFile

MAGIC = b"__CLANG_OFFLOAD_BUNDLE__"
COMPRESSED_MAGIC = b"CCOB"


def code_objects(library: Path, arch: str | None = None) -> Iterator[tuple[str, bytes]]:
    """(architecture, ELF image) of every code object in a HIP library, or those of `arch`.

    Raises ValueError when the library holds no device code or a bundle is damaged.
    """
    with library.open("rb") as file:
        section = ELFFile(file).get_section_by_name(".hip_fatbin")
        if section is None:
            raise ValueError(f"{library}: no .hip_fatbin section, so no AMD code")
        first, size = section["sh_offset"], section["sh_size"]
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from bundled(data, first, first + size, arch)


def bundled(
    data: mmap.mmap | bytes, first: int, end: int, arch: str | None = None
) -> Iterator[tuple[str, bytes]]:
    """The same for bytes `first` to `end` of `data`: bundles in a row, zeros between them."""
    start = data.find(MAGIC, first, end)
    if start < 0:
        what = "compressed" if data.find(COMPRESSED_MAGIC, first, end) == first else "no"
        raise ValueError(f"{what} offload bundles; uncompressed ones are needed")
    while start >= 0:
        following = start + len(MAGIC)
        for name, offset, size in _entries(data, start, end):
            following = max(following, start + offset + size)
            found = name.partition(":")[0].rpartition("-")[2]
            if found.startswith("gfx") and size and arch in (None, found):
                yield found, bytes(data[start + offset : start + offset + size])
        start = data.find(MAGIC, following, end)


def _entries(data: mmap.mmap | bytes, start: int, end: int) -> Iterator[tuple[str, int, int]]:
    try:
        position = start + len(MAGIC)
        (count,) = struct.unpack_from("<Q", data, position)
        position += 8
        for _ in range(count):
            offset, size, length = struct.unpack_from("<QQQ", data, position)
            position += 24 + length
            if position > end or start + offset + size > end:
                raise ValueError(f"offload bundle at byte {start}: an entry leaves the section")
            yield bytes(data[position - length : position]).decode("ascii", "replace"), offset, size
    except struct.error as error:
        raise ValueError(f"offload bundle at byte {start} is cut short") from error
