"""AMD code objects: what the compiler recorded about each kernel.

The format is LLVM's "User Guide for AMDGPU Backend": an ELF file whose note AMDGPU type 32 is a
msgpack map, and whose symbol `<kernel>.kd` is a 64-byte kernel descriptor.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgpack  # type: ignore[import-untyped]
from elftools.elf.elffile import ELFFile
from elftools.elf.relocation import RelocationSection
from elftools.elf.sections import NoteSection, SymbolTableSection

from .toolchain import find_program, run

NT_AMDGPU_METADATA = 32
HIP_NAMES = {"__hip_bfloat16": "bf16", "__half": "f16"}


@dataclass(frozen=True)
class Argument:
    """One kernel argument; hidden ones (`kind` starts with "hidden_") the runtime fills in."""

    offset: int
    size: int
    kind: str

    @property
    def may_point(self) -> bool:
        """Whether it is a pointer, or a struct that may hold some."""
        return self.kind == "global_buffer" or (self.kind == "by_value" and self.size > 8)


@dataclass(frozen=True)
class Descriptor:
    """The kernel descriptor that the hardware's dispatcher reads."""

    group_bytes: int
    private_bytes: int
    entry: int  # virtual address of the first instruction
    rsrc1: int
    rsrc2: int
    properties: int


@dataclass(frozen=True)
class Kernel:
    """One kernel of a code object, as its metadata describes it."""

    symbol: str
    name: str  # demangled, without namespace, return type and arguments
    arguments: tuple[Argument, ...]
    kernarg_bytes: int
    vgprs: int
    sgprs: int
    vgpr_spills: int
    sgpr_spills: int
    scratch_bytes: int
    lds_bytes: int
    threads: int  # the largest block it may be launched with
    wave: int


class CodeObject:
    """A code object in memory. Raises ValueError when `image` is not one."""

    def __init__(self, image: bytes) -> None:
        self.image = image
        self._elf = ELFFile(io.BytesIO(image))
        if self._elf.header["e_machine"] != "EM_AMDGPU":
            raise ValueError(f"not AMD code: the ELF machine is {self._elf.header['e_machine']}")

    @classmethod
    def read(cls, path: Path) -> CodeObject:
        return cls(path.read_bytes())

    @cached_property
    def arch(self) -> str:
        """The target, e.g. gfx1100."""
        return str(self._metadata["amdhsa.target"]).partition(":")[0].rpartition("-")[2]

    @cached_property
    def _metadata(self) -> dict[str, Any]:
        for section in self._elf.iter_sections():
            if isinstance(section, NoteSection):
                for note in section.iter_notes():
                    if note["n_name"] == "AMDGPU" and note["n_type"] == NT_AMDGPU_METADATA:
                        data = note["n_descdata"]
                        return dict(msgpack.unpackb(data))
        raise ValueError("not a code object: no AMDGPU metadata note")

    @cached_property
    def kernels(self) -> dict[str, Kernel]:
        """By symbol, in the order of the metadata."""
        entries = self._metadata["amdhsa.kernels"]
        names = short_names([entry[".name"] for entry in entries])
        return {e[".name"]: _kernel(e, name) for e, name in zip(entries, names, strict=True)}

    @cached_property
    def symbols(self) -> dict[str, tuple[int, int]]:
        """Address and size of every dynamic symbol."""
        table = self._elf.get_section_by_name(".dynsym")
        if not isinstance(table, SymbolTableSection):
            return {}
        return {s.name: (s["st_value"], s["st_size"]) for s in table.iter_symbols() if s.name}

    def segments(self) -> Iterator[tuple[int, bytes, int]]:
        """Virtual address, bytes in the file and size in memory of everything to be loaded."""
        for segment in self._elf.iter_segments("PT_LOAD"):
            yield segment["p_vaddr"], segment.data(), segment["p_memsz"]

    def relocations(self) -> Iterator[tuple[int, int, int]]:
        """Address, type and addend of every dynamic relocation."""
        for section in self._elf.iter_sections():
            if isinstance(section, RelocationSection):
                for entry in section.iter_relocations():
                    yield entry["r_offset"], entry["r_info_type"], entry["r_addend"]

    def at(self, address: int, size: int) -> bytes:
        """Bytes at a virtual address."""
        for start, data, memory in self.segments():
            if start <= address and address + size <= start + memory:
                return data[address - start : address - start + size].ljust(size, b"\0")
        raise ValueError(f"address {address:#x} is in no segment of the code object")

    def descriptor(self, symbol: str) -> Descriptor:
        address = self.symbols[f"{symbol}.kd"][0]
        group, private, entry, _rsrc3, rsrc1, rsrc2, properties = struct.unpack_from(
            "<II8xq20xIIIH", self.at(address, 64)
        )
        return Descriptor(group, private, address + entry, rsrc1, rsrc2, properties)


def short_names(symbols: Sequence[str]) -> list[str]:
    """`matvec_kernel<f16, 4>` for each mangled symbol of a kernel."""
    if not symbols:
        return []
    lines = run([find_program("llvm-cxxfilt")], stdin="\n".join(symbols) + "\n").splitlines()
    return [_shorten(line) for line in lines]


def _shorten(demangled: str) -> str:
    text = demangled.replace("(anonymous namespace)::", "")
    depth, end = 0, len(text)
    # The argument list is the last parenthesis at depth 0 outside <...>.
    for i, c in enumerate(text):
        if c == "<":
            depth += 1
        elif c == ">":
            depth -= 1
        elif c == "(" and depth == 0:
            end = i
            break
    text = text[:end].removeprefix("void ")
    text = re.sub(r"\b(?:\w+::)+(?=\w)", "", text)
    for long, short in HIP_NAMES.items():
        text = re.sub(rf"\b{long}\b", short, text)
    return text


def _kernel(entry: dict[str, Any], name: str) -> Kernel:
    arguments = tuple(
        Argument(a[".offset"], a[".size"], a[".value_kind"]) for a in entry.get(".args", [])
    )
    return Kernel(
        symbol=entry[".name"],
        name=name,
        arguments=arguments,
        kernarg_bytes=entry[".kernarg_segment_size"],
        vgprs=entry[".vgpr_count"],
        sgprs=entry[".sgpr_count"],
        vgpr_spills=entry.get(".vgpr_spill_count", 0),
        sgpr_spills=entry.get(".sgpr_spill_count", 0),
        scratch_bytes=entry[".private_segment_fixed_size"],
        lds_bytes=entry[".group_segment_fixed_size"],
        threads=entry[".max_flat_workgroup_size"],
        wave=entry[".wavefront_size"],
    )
