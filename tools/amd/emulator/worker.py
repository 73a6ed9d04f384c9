"""The process that emulates: reads requests from standard input, runs kernels, answers.

It runs apart because an emulated kernel touches this process's memory. Started by `Emulator`.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pickle
import struct
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from ..architectures import ARCHITECTURES
from ..code_object import CodeObject
from . import fixes
from .loader import Dispatch, LoadedCode, Memory, dispatch
from .messages import Answer, Buffer, Call, Direct, Failure, LaunchRecord, Struct, Value
from .patching import patched
from .trace import MemoryFault, Region, Tracer

GUARD = 4096
GUARD_BYTE = 0xA5
COMPUTE_UNITS = 4  # of the device that launchers see: small, so that grids stay small
LAUNCH = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_uint),
    ctypes.POINTER(ctypes.c_void_p),
    ctypes.c_size_t,
)


class GuardedBuffer:
    """A copy of an array between two guard bands."""

    def __init__(self, number: int, buffer: Buffer) -> None:
        self.data = np.ascontiguousarray(buffer.array)
        size = self.data.nbytes
        self.memory = Memory(2 * GUARD + buffer.offset + size)
        self.start = GUARD + buffer.offset
        self.memory.write(0, bytes([GUARD_BYTE]) * self.memory.size)
        self.memory.write(self.start, self.data.tobytes())
        address = self.memory.address + self.start
        name = f"buffer {number} ({size} bytes)"
        self.region = Region(address, address + size, name, buffer.writable, number)

    def result(self) -> np.ndarray[Any, Any]:
        """The array after the kernels. Raises MemoryFault when a guard band changed."""
        data = self.memory.read(0, self.memory.size)
        end = self.start + self.data.nbytes
        if set(data[: self.start] + data[end:]) - {GUARD_BYTE}:
            raise MemoryFault(f"a guard band of {self.region.name} was written to")
        return np.frombuffer(data[self.start : end], self.data.dtype).reshape(self.data.shape)


class Session:
    """One request: its buffers and what its launches did. emu: tinygrad's emulator module."""

    def __init__(self, emu: Any, codes: list[LoadedCode], buffers: list[Buffer]) -> None:
        self.emu = emu
        self.codes = codes
        self.arch = ARCHITECTURES[codes[0].code.arch]
        self.buffers = [GuardedBuffer(i, b) for i, b in enumerate(buffers)]
        self.launches: list[LaunchRecord] = []
        self.counts: Counter[str] = Counter()
        self.lines: dict[int, set[int]] = {}
        self.loads: Counter[int] = Counter()
        self.requests: Counter[int] = Counter()
        self.lds_accesses = 0
        self.lds_conflicts = 0
        self.error: Exception | None = None
        self._structs: list[ctypes.Structure] = []  # alive as long as the launcher may read them

    def value(self, value: Value) -> int | float | bytes:
        """An address for a buffer or a struct, everything else as it is."""
        if isinstance(value, Buffer):
            return self._address(value)
        return self._struct(value) if isinstance(value, Struct) else value

    def _struct(self, value: Struct) -> int:
        made = value.placed(self._address)
        self._structs.append(made)
        return ctypes.addressof(made)

    def struct_bytes(self, value: Struct) -> bytes:
        """A struct as a kernel takes it by value."""
        return bytes(value.placed(self._address))

    def _address(self, buffer: Buffer) -> int:
        return self.buffers[buffer.number].region.start

    def code_with(self, symbol: str) -> LoadedCode:
        """The code object that has a kernel. Raises ValueError when none does."""
        for loaded in self.codes:
            if symbol in loaded.code.kernels:
                return loaded
        raise ValueError(f"no code object has the kernel {symbol}")

    def run(self, d: Dispatch) -> None:
        """Emulates one launch."""
        emu = self.emu
        memory = self.code_with(d.kernel.symbol).memory
        code = Region(memory.address, memory.address + memory.size, "the code object", False)
        kernarg = Region(
            d.kernarg.address, d.kernarg.address + d.kernarg.size, "the kernel arguments", False
        )
        packet = Region(d.packet.address, d.packet.address + 64, "the dispatch packet", False)
        regions = [code, kernarg, packet, *(b.region for b in self.buffers)]
        tracer = Tracer(
            self.code_with(d.kernel.symbol).instructions, regions, d.kernel.wave, d.lds_bytes
        )
        init_wave = emu._init_wave

        def initialise(lib: int, wave_start: int, *rest: Any) -> Any:
            if wave_start == 0:
                tracer.new_block()
            return init_wave(lib, wave_start, *rest)

        changes: dict[str, Any] = {
            "_decode_at": tracer.wrap(emu._decode_at),
            "_init_wave": initialise,
        }
        if d.keeps_denormals:
            changes["_MXCSRContext"] = contextlib.nullcontext
        with patched(emu, changes):
            emu.run_asm(
                d.entry,
                0,
                *d.grid,
                *d.block,
                d.kernarg.address,
                d.rsrc2,
                d.scratch_bytes,
                self.arch.emulator,
                d.user_sgprs,
            )
        self.counts += tracer.counts()
        self.loads += tracer.loads
        self.requests += tracer.requests
        self.lds_accesses += tracer.lds_accesses
        self.lds_conflicts += tracer.lds_conflicts
        for number, lines in tracer.lines.items():
            self.lines.setdefault(number, set()).update(lines)
        launch = LaunchRecord(self.arch.name, d.kernel.name, d.grid, d.block, d.lds_bytes)
        self.launches.append(launch)

    def answer(self) -> Answer:
        return Answer(
            arrays=[b.result() for b in self.buffers],
            launches=self.launches,
            counts=self.counts,
            lines={number: len(lines) for number, lines in self.lines.items()},
            loads=self.loads,
            requests=self.requests,
            lds_accesses=self.lds_accesses,
            lds_conflicts=self.lds_conflicts,
        )


class Worker:
    """Keeps loaded code objects and libraries from one request to the next."""

    def __init__(self) -> None:
        self._emu: Any = importlib.import_module("test.mockgpu.amd.emu")
        fixes.apply(self._emu)
        self._code: dict[Path, LoadedCode] = {}
        self._libraries: dict[Path, ctypes.CDLL] = {}

    def handle(self, request: Direct | Call) -> Answer:
        paths = [request.code] if isinstance(request, Direct) else request.codes
        session = Session(self._emu, [self._loaded(p) for p in paths], request.buffers)
        if isinstance(request, Direct):
            values = [self._bytes(session, v) for v in request.values]
            session.run(
                dispatch(
                    session.codes[0],
                    request.symbol,
                    request.grid,
                    request.block,
                    values,
                    request.lds_bytes,
                )
            )
        else:
            self._call(session, request)
        return session.answer()

    def _loaded(self, path: Path) -> LoadedCode:
        loaded = self._code.get(path)
        if loaded is None:
            loaded = self._code[path] = LoadedCode(CodeObject.read(path))
        return loaded

    def _bytes(self, session: Session, value: Value) -> bytes:
        if isinstance(value, Struct):
            return session.struct_bytes(value)
        plain = session.value(value)
        return plain if isinstance(plain, bytes) else struct.pack("<Q", plain)

    def _call(self, session: Session, request: Call) -> None:
        runtime = self._library(request.runtime, ctypes.RTLD_GLOBAL)
        library = self._library(request.library, ctypes.DEFAULT_MODE)

        @LAUNCH
        def launch(name: bytes, grid: Any, block: Any, arguments: Any, lds: int) -> int:
            try:
                session.run(
                    _from_pointers(
                        session.code_with(name.decode()), name.decode(), grid, block, arguments, lds
                    )
                )
            except Exception as error:
                session.error = error
                return 1
            return 0

        runtime.emulator_configure(launch, session.arch.wave, COMPUTE_UNITS)
        function: Callable[..., bytes | None] = getattr(library, request.symbol)
        function.restype = ctypes.c_char_p  # type: ignore[attr-defined]
        types = [getattr(ctypes, name) for name in request.types]
        values = [t(session.value(v)) for t, v in zip(types, request.values, strict=True)]
        status = function(*values)
        if session.error is not None:
            raise session.error
        if status is not None:
            raise ValueError(f"the launcher refused: {status.decode()}")

    def _library(self, path: Path, mode: int) -> ctypes.CDLL:
        library = self._libraries.get(path)
        if library is None:
            library = self._libraries[path] = ctypes.CDLL(str(path), mode=mode)
        return library


def _from_pointers(
    loaded: LoadedCode, symbol: str, grid: Any, block: Any, arguments: Any, lds: int
) -> Dispatch:
    arguments_of = loaded.code.kernels[symbol].arguments
    visible = [a for a in arguments_of if not a.kind.startswith("hidden_")]
    values = [ctypes.string_at(arguments[i], a.size) for i, a in enumerate(visible)]
    three = (grid[0], grid[1], grid[2]), (block[0], block[1], block[2])
    return dispatch(loaded, symbol, *three, values, lds)


def main() -> None:
    requests = sys.stdin.buffer
    # Whatever the emulator prints must not mix with the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    worker = Worker()
    while True:
        header = requests.read(8)
        if len(header) < 8:
            return
        request = pickle.loads(requests.read(struct.unpack("<Q", header)[0]))
        try:
            answer: Answer | Failure = worker.handle(request)
        except (MemoryFault, ValueError) as error:
            answer = Failure(str(error))
        except Exception:
            answer = Failure(traceback.format_exc())
        _send(answers, answer)


def _send(stream: BinaryIO, message: object) -> None:
    data = pickle.dumps(message)
    stream.write(struct.pack("<Q", len(data)) + data)
    stream.flush()


if __name__ == "__main__":
    main()
