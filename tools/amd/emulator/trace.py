"""Watches the emulator step by step: counts instructions, cache lines and bank conflicts, checks
every address.

An access outside the buffers that the launch was given raises MemoryFault before it happens, so a
wild pointer cannot reach the emulator's own memory. LDS accesses are checked for bounds and for
races: two waves of a block touching one word between the same barriers, one of them writing.
"""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..disassembly import Instruction
from ..memory import access_bytes
from .banks import bank_conflicts

LINE = 128  # bytes of a cache line
EXEC = 126  # SGPR number of the mask of active lanes
SGPRS = 256
VCC = 106
_SCALAR_WIDTHS = {"u8": 1, "i8": 1, "u16": 2, "i16": 2, "dword": 4}
_OFFSET = re.compile(r"\boffset:(-?(?:0x[0-9a-f]+|\d+))")
_PAIR_OFFSETS = re.compile(r"\boffset([01]):(0x[0-9a-f]+|\d+)")
_TWO_ADDRESSES = re.compile(r"^ds_(load|store)_2addr|^ds_(read|write)2")
_BUFFER_ACCESS = re.compile(r"^buffer_(load|store|atomic)")
_BARRIERS = frozenset({"s_barrier", "s_barrier_wait"})
Step = Callable[..., object]


class MemoryFault(Exception):
    """A kernel touched memory that is not its own, or in a way the emulator would get wrong."""


@dataclass(frozen=True)
class Region:
    """Memory that a kernel may touch. number: of the buffer, or None for code and arguments."""

    start: int
    end: int
    name: str
    writable: bool
    number: int | None = None


class Tracer:
    """Wraps the emulator's decoder for one dispatch."""

    def __init__(
        self,
        instructions: dict[int, Instruction],
        regions: Sequence[Region],
        wave: int,
        lds_bytes: int,
    ) -> None:
        self.instructions = instructions
        self.regions = sorted(regions, key=lambda r: r.start)
        self.starts = np.array([r.start for r in self.regions], dtype=np.uint64)
        self.ends = np.array([r.end for r in self.regions], dtype=np.uint64)
        self.wave = wave
        self.steps: Counter[int] = Counter()
        self.lines: dict[int, set[int]] = {r.number: set() for r in regions if r.number is not None}
        self.loads: Counter[int] = Counter()  # by buffer, one per wave
        self.requests: Counter[int] = Counter()  # by buffer, lines
        self.lds_accesses = 0  # by waves; an instruction with two addresses makes two
        self.lds_conflicts = 0
        self.lds = LdsRaces(lds_bytes)
        self._arrays: dict[tuple[int, int], NDArray[np.uint32]] = {}

    def new_block(self) -> None:
        """Another block begins, with fresh waves and LDS."""
        self._arrays.clear()
        self.lds.reset()

    def counts(self) -> Counter[str]:
        """Executed instructions by mnemonic: one per wave, however many lanes are active."""
        total: Counter[str] = Counter()
        for address, times in self.steps.items():
            total[self.instructions[address].mnemonic] += times
        return total

    def wrap(self, decode: Callable[[int, str], Any]) -> Callable[[int, str], Any]:
        """A decoder like the emulator's own whose instructions report here first."""

        def decoded(address: int, arch: str) -> Any:
            (program, runtime), instruction = decode(address, arch)
            needed = list(program.arg.globals)
            check = self._checker(self.instructions[address])
            run: Step = runtime.fxn
            steps = self.steps

            def plain(*buffers: object) -> None:
                steps[address] += 1
                run(*buffers)

            def watched(sgprs: Any, vgprs: Any, *others: Any) -> None:
                steps[address] += 1
                assert check is not None
                check(self._array(sgprs.value, SGPRS), self._array(vgprs.value, 256 * self.wave))
                buffers = (sgprs, vgprs, *others)
                run(*(buffers[i] for i in needed))

            step = plain if check is None else watched
            used = needed if check is None else list(range(6))
            wrapped = SimpleNamespace(arg=SimpleNamespace(globals=used)), SimpleNamespace(fxn=step)
            return wrapped, instruction

        return decoded

    def _array(self, address: int, count: int) -> NDArray[np.uint32]:
        array = self._arrays.get((address, count))
        if array is None:
            memory = (ctypes.c_uint32 * count).from_address(address)
            array = self._arrays[(address, count)] = np.ctypeslib.as_array(memory)
        return array

    def _checker(self, i: Instruction) -> Callable[[NDArray[Any], NDArray[Any]], None] | None:
        if i.mnemonic in _BARRIERS:
            return lambda s, v: self.lds.barrier(_address(s))
        if i.mnemonic.startswith("s_load"):
            return self._scalar(i)
        if i.mnemonic.startswith("ds_"):
            return self._lds(i)
        if access_bytes(i.mnemonic):
            return self._vector(i)
        if _BUFFER_ACCESS.match(i.mnemonic):
            raise MemoryFault(f"{i.mnemonic} is not checked: use plain pointers")
        return None

    def _lanes(self, s: NDArray[Any]) -> NDArray[np.intp]:
        mask = int(s[EXEC]) | (int(s[EXEC + 1]) << 32 if self.wave == 64 else 0)
        bits = np.frombuffer(mask.to_bytes(8, "little"), dtype=np.uint8)
        return np.flatnonzero(np.unpackbits(bits, bitorder="little"))

    def _vector(self, i: Instruction) -> Callable[[NDArray[Any], NDArray[Any]], None]:
        found = access_bytes(i.mnemonic)
        assert found is not None
        kind, size = found
        operands = _split(i.operands)
        first = 1 if kind == "load" or (kind == "atomic" and len(operands) > 3) else 0
        vaddr = _number(operands[first])
        scalar = None
        if i.mnemonic.startswith("global"):
            base = operands[-1].split()[0]
            scalar = None if base in ("off", "null") else _number(base)
        offset = _offset(i)

        def check(s: NDArray[Any], v: NDArray[Any]) -> None:
            lanes = self._lanes(s)
            if not len(lanes):
                return
            low = v[vaddr * self.wave + lanes].astype(np.uint64)
            if scalar is None:
                high = v[(vaddr + 1) * self.wave + lanes].astype(np.uint64)
                addresses = low | high << np.uint64(32)
            else:
                addresses = low + np.uint64(_pair(s, scalar))
            addresses = addresses + np.uint64(offset & 0xFFFFFFFFFFFFFFFF)
            self._touch(i, addresses, size, reads=kind != "store", writes=kind != "load")
            if kind != "load" and size >= 4 and (addresses & np.uint64(3)).any():
                raise MemoryFault(f"{i.text}: unaligned, which the emulator gets wrong")

        return check

    def _scalar(self, i: Instruction) -> Callable[[NDArray[Any], NDArray[Any]], None]:
        operands = _split(i.operands)
        base = _number(operands[1])
        last = operands[2].split()[0]
        literal = int(last, 0) if re.match(r"^-?(0x)?[0-9a-f]+$", last) else 0
        register = _number(last) if last.startswith("s") else None
        offset = literal + _offset(i)
        size = _scalar_bytes(i.mnemonic)

        def check(s: NDArray[Any], v: NDArray[Any]) -> None:
            address = _pair(s, base) + offset + (int(s[register]) if register is not None else 0)
            self._touch(i, np.array([address], dtype=np.uint64), size, reads=True, writes=False)

        return check

    def _touch(
        self, i: Instruction, addresses: NDArray[np.uint64], size: int, reads: bool, writes: bool
    ) -> None:
        index = np.searchsorted(self.starts, addresses, side="right").astype(np.int64) - 1
        last = addresses + np.uint64(size)
        outside = (index < 0) | (last > self.ends[index])
        if outside.any():
            raise MemoryFault(self._describe(i, int(addresses[outside][0]), size, writes))
        for number in np.unique(index):
            region = self.regions[number]
            if writes and not region.writable:
                raise MemoryFault(f"{i.text}: writes to {region.name}, which is read-only")
            if reads and region.number is not None:
                mine = addresses[index == number]
                lines = {int(a) for a in np.unique(mine // LINE)}
                lines |= {int(a) for a in np.unique((mine + np.uint64(size - 1)) // LINE)}
                self.lines[region.number] |= lines
                self.loads[region.number] += 1
                self.requests[region.number] += len(lines)

    def _describe(self, i: Instruction, address: int, size: int, writes: bool) -> str:
        verb = "writes" if writes else "reads"
        nearest = min(self.regions, key=lambda r: max(r.start - address, address + size - r.end))
        if address < nearest.start:
            where = f"{nearest.start - address} bytes before the start of {nearest.name}"
        else:
            where = f"{address + size - nearest.end} bytes past the end of {nearest.name}"
        return f"{i.text} {verb} {size} bytes at {address:#x}, {where}"

    def _lds(self, i: Instruction) -> Callable[[NDArray[Any], NDArray[Any]], None] | None:
        if "permute" in i.mnemonic or "swizzle" in i.mnemonic:
            return None
        writes = not re.match(r"^ds_(load|read)", i.mnemonic)
        atomic = writes and not re.match(r"^ds_(store|write)", i.mnemonic)
        operands = _split(i.operands)
        register = _number(operands[1 if "rtn" in i.mnemonic or not writes else 0])
        size = _lds_bytes(i.mnemonic)
        offsets = [_offset(i)]
        if _TWO_ADDRESSES.search(i.mnemonic):
            scale = size * (64 if "st64" in i.mnemonic or "stride64" in i.mnemonic else 1)
            named = dict(_PAIR_OFFSETS.findall(i.operands))
            offsets = [int(named.get(n, "0"), 0) * scale for n in "01"]

        def check(s: NDArray[Any], v: NDArray[Any]) -> None:
            lanes = self._lanes(s)
            if not len(lanes):
                return
            base = v[register * self.wave + lanes].astype(np.int64)
            for offset in offsets:
                start = (base + offset) & 0xFFFFFFFF
                self.lds.touch(_address(s), i.text, start, size, writes, atomic)
                if not atomic:
                    self.lds_accesses += 1
                    self.lds_conflicts += bank_conflicts(lanes, start, size)

        return check


class LdsRaces:
    """Bounds and races of one block's LDS at a time, by words."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.reset()

    def reset(self) -> None:
        words = -(-self.size // 4)
        self.epochs: dict[int, int] = {}
        self.writer = np.full((words, 2), -1, dtype=np.int64)  # wave, epoch
        self.reader = np.full((words, 2), -1, dtype=np.int64)
        self.shared = np.full(words, -1, dtype=np.int64)  # epoch in which several waves read

    def barrier(self, wave: int) -> None:
        self.epochs[wave] = self.epochs.get(wave, 0) + 1

    def touch(
        self, wave: int, text: str, start: NDArray[np.int64], size: int, writes: bool, atomic: bool
    ) -> None:
        if (start < 0).any() or (start + size > self.size).any():
            raise MemoryFault(f"{text}: LDS address outside the block's {self.size} bytes")
        words = np.unique((start[:, None] + np.arange(0, size, min(size, 4))).ravel() // 4)
        epoch = self.epochs.setdefault(wave, 0)
        other = (self.writer[words, 1] == epoch) & (self.writer[words, 0] != wave)
        if writes:
            other |= (self.reader[words, 1] == epoch) & (self.reader[words, 0] != wave)
            other |= self.shared[words] == epoch
        if other.any() and not atomic:
            word = int(words[other][0]) * 4
            raise MemoryFault(f"{text}: race on LDS byte {word}, no barrier between two waves")
        if atomic:
            return
        if writes:
            self.writer[words] = (wave, epoch)
            return
        again = (self.reader[words, 1] == epoch) & (self.reader[words, 0] != wave)
        self.shared[words[again]] = epoch
        self.reader[words] = (wave, epoch)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _split(operands: str) -> list[str]:
    return [part.strip() for part in re.split(r",\s*(?![^\[]*\])", operands)]


def _number(operand: str) -> int:
    if operand.startswith("vcc"):
        return VCC
    match = re.match(r"[vs]\[?(\d+)", operand)
    if match is None:
        raise MemoryFault(f"address operand {operand} is not understood")
    return int(match[1])


def _pair(s: NDArray[Any], register: int) -> int:
    return int(s[register]) | int(s[register + 1]) << 32


def _offset(i: Instruction) -> int:
    match = _OFFSET.search(i.operands)
    return int(match[1], 0) if match else 0


def _scalar_bytes(mnemonic: str) -> int:
    part = mnemonic.rsplit("_", 1)[1]
    if part in _SCALAR_WIDTHS:
        return _SCALAR_WIDTHS[part]
    count = re.search(r"\d+$", part)
    assert count is not None
    return int(count[0]) * 4 if part.startswith("dwordx") else int(count[0]) // 8


def _lds_bytes(mnemonic: str) -> int:
    """Bytes per lane and address of a DS instruction."""
    match = re.search(r"_[biuf](8|16|32|64|96|128)(?:_|$)", mnemonic)
    if match is None:
        raise MemoryFault(f"{mnemonic}: its width is not known")
    return int(match[1]) // 8
