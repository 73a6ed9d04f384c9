"""Puts a code object into memory as a runtime would, and lays out one dispatch of a kernel.

The layouts are those of LLVM's "User Guide for AMDGPU Backend": kernel descriptor, hidden
arguments, initial SGPRs; and of the HSA specification: the dispatch packet.
"""

from __future__ import annotations

import ctypes
import mmap
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..code_object import CodeObject, Kernel
from ..disassembly import Instruction, disassemble

# Cache maintenance, which the emulator does not know and, having no caches, does not need.
CACHE_INSTRUCTIONS = frozenset(
    {
        *("buffer_gl0_inv", "buffer_gl1_inv", "buffer_inv", "buffer_wbl2"),
        *("global_inv", "global_wb", "global_wbinv"),
    }
)
S_NOP = struct.pack("<I", 0xBF800000)
R_AMDGPU_RELATIVE64 = 13
_KEEP_DENORMALS = 3
# Words of each user SGPR group, by the bit of the descriptor's properties that asks for it.
_PRIVATE_BUFFER, _DISPATCH, _QUEUE, _KERNARG, _DISPATCH_ID, _FLAT_SCRATCH, _PRIVATE_SIZE = range(7)


class Memory:
    """Page-aligned memory of its own."""

    def __init__(self, size: int) -> None:
        self._map = mmap.mmap(-1, max(size, 1))
        self.size = size
        self.bytes = (ctypes.c_ubyte * max(size, 1)).from_buffer(self._map)
        self.address = ctypes.addressof(self.bytes)

    def write(self, offset: int, data: bytes) -> None:
        ctypes.memmove(self.address + offset, data, len(data))

    def read(self, offset: int, size: int) -> bytes:
        return ctypes.string_at(self.address + offset, size)


class LoadedCode:
    """A code object at its address. Raises ValueError for relocations it cannot apply."""

    def __init__(self, code: CodeObject) -> None:
        self.code = code
        segments = list(code.segments())
        self.memory = Memory(max(address + size for address, _, size in segments))
        for address, data, _ in segments:
            self.memory.write(address, data)
        for offset, kind, addend in code.relocations():
            if kind != R_AMDGPU_RELATIVE64:
                raise ValueError(f"relocation type {kind} of the code object is not supported")
            self.memory.write(offset, struct.pack("<Q", self.memory.address + addend))
        self.instructions: dict[int, Instruction] = {}
        for body in disassemble(code).values():
            for instruction in body:
                self.instructions[self.memory.address + instruction.address] = instruction
                if instruction.mnemonic in CACHE_INSTRUCTIONS:
                    self._blank(instruction)

    def _blank(self, instruction: Instruction) -> None:
        self.memory.write(instruction.address, S_NOP * (instruction.size // 4))
        for address in range(instruction.address + 4, instruction.end, 4):
            nop = Instruction(address, 4, "s_nop", "0", "s_nop 0", None)
            self.instructions[self.memory.address + address] = nop


@dataclass
class Dispatch:
    """One launch, ready for the emulator: registers, argument block, LDS."""

    kernel: Kernel
    entry: int
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    kernarg: Memory
    rsrc2: int
    user_sgprs: list[int]
    lds_bytes: int
    scratch_bytes: int
    keeps_denormals: bool
    packet: Memory = field(repr=False)


def dispatch(
    loaded: LoadedCode,
    symbol: str,
    grid: tuple[int, int, int],
    block: tuple[int, int, int],
    values: Sequence[bytes],
    dynamic_lds: int = 0,
) -> Dispatch:
    """values: the bytes of every visible argument. Raises ValueError when the launch is wrong."""
    kernel = loaded.code.kernels.get(symbol)
    if kernel is None:
        raise ValueError(f"no kernel {symbol} in the code object for {loaded.code.arch}")
    threads = block[0] * block[1] * block[2]
    if not 1 <= threads <= kernel.threads:
        raise ValueError(
            f"{kernel.name}: a block of {threads} threads, compiled for at most {kernel.threads}"
        )
    if min(grid) < 1:
        raise ValueError(f"{kernel.name}: empty grid {grid}")
    descriptor = loaded.code.descriptor(symbol)
    lds = descriptor.group_bytes + dynamic_lds
    if lds > 64 << 10:
        raise ValueError(f"{kernel.name}: {lds} bytes of LDS, a block has at most 65536")
    if descriptor.private_bytes and threads > kernel.wave:
        raise ValueError(
            f"{kernel.name} uses scratch, which the emulator's waves would share: "
            f"launch at most {kernel.wave} threads a block"
        )
    kernarg = Memory(kernel.kernarg_bytes)
    kernarg.write(0, _argument_block(kernel, grid, block, values, dynamic_lds))
    packet = Memory(64)
    packet.write(0, _packet(grid, block, descriptor.private_bytes, lds, kernarg.address))
    groups = {
        _PRIVATE_BUFFER: [0, 0, 0, 0],
        _DISPATCH: _words(packet.address),
        _QUEUE: [0, 0],
        _KERNARG: _words(kernarg.address),
        _DISPATCH_ID: [0, 0],
        _FLAT_SCRATCH: [0, 0],
        _PRIVATE_SIZE: [descriptor.private_bytes],
    }
    asked = [words for bit, words in groups.items() if descriptor.properties >> bit & 1]
    return Dispatch(
        kernel=kernel,
        entry=loaded.memory.address + descriptor.entry,
        grid=grid,
        block=block,
        kernarg=kernarg,
        # The emulator takes the LDS size from the field that the hardware's dispatcher fills in.
        rsrc2=descriptor.rsrc2 & ~(0x1FF << 15) | -(-lds // 512) << 15,
        user_sgprs=[word for words in asked for word in words],
        lds_bytes=lds,
        scratch_bytes=descriptor.private_bytes,
        keeps_denormals=descriptor.rsrc1 >> 16 & 3 == _KEEP_DENORMALS,
        packet=packet,
    )


def _words(value: int) -> list[int]:
    return [value & 0xFFFFFFFF, value >> 32]


def _packet(
    grid: tuple[int, ...], block: tuple[int, ...], private: int, group: int, kernarg: int
) -> bytes:
    threads = [g * b for g, b in zip(grid, block, strict=True)]
    return struct.pack(
        "<HHHHHHIIIIIQQQQ", 2, 3, *block, 0, *threads, private, group, 0, kernarg, 0, 0
    )


def _argument_block(
    kernel: Kernel,
    grid: tuple[int, ...],
    block: tuple[int, ...],
    values: Sequence[bytes],
    dynamic_lds: int,
) -> bytes:
    hidden = {
        **{f"hidden_block_count_{axis}": grid[i] for i, axis in enumerate("xyz")},
        **{f"hidden_group_size_{axis}": block[i] for i, axis in enumerate("xyz")},
        **{f"hidden_remainder_{axis}": 0 for axis in "xyz"},
        **{f"hidden_global_offset_{axis}": 0 for axis in "xyz"},
        "hidden_grid_dims": 3 if grid[2] > 1 else 2 if grid[1] > 1 else 1,
        "hidden_dynamic_lds_size": dynamic_lds,
        "hidden_none": 0,
    }
    visible = [a for a in kernel.arguments if not a.kind.startswith("hidden_")]
    if len(visible) != len(values):
        raise ValueError(f"{kernel.name} takes {len(visible)} arguments, got {len(values)}")
    data = bytearray(kernel.kernarg_bytes)
    for argument, value in zip(visible, values, strict=True):
        if len(value) != argument.size:
            raise ValueError(
                f"{kernel.name}: the argument at byte {argument.offset} has {argument.size} bytes, "
                f"got {len(value)}"
            )
        data[argument.offset : argument.offset + argument.size] = value
    for argument in kernel.arguments[len(visible) :]:
        if argument.kind not in hidden:
            raise ValueError(f"{kernel.name} needs {argument.kind}, which the emulator cannot give")
        value = hidden[argument.kind].to_bytes(argument.size, "little")
        data[argument.offset : argument.offset + argument.size] = value
    return bytes(data)
