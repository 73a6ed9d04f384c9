"""The door: kernels and launchers in, arrays and counts out."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..code_object import CodeObject
from ..toolchain import BUILD, Toolchain, ToolchainError, find_program, run
from .messages import Buffer, Call, Direct, LaunchRecord, Struct, Value
from .process import EmulationError, EmulatorProcess

RUNTIME_SOURCE = Path(__file__).with_name("hip_runtime.cpp")
_CTYPES = {"float": "c_float", "double": "c_double", "bool": "c_bool"}


def Input(array: NDArray[Any], offset: int = 0) -> Buffer:
    """Memory that a kernel may read. offset: bytes past a 256-byte boundary."""
    return Buffer(array, writable=False, offset=offset)


def Output(array: NDArray[Any], offset: int = 0) -> Buffer:
    """Memory that a kernel may read and write, with what it holds before."""
    return Buffer(array, writable=True, offset=offset)


@dataclass(frozen=True)
class Run:
    """What a launch did.

    outputs: the Output arrays afterwards, in the order of the arguments.
    counts: executed instructions by mnemonic, one per wave.
    lines: distinct 128-byte lines that loads touched, by buffer in the order of the arguments.
    loads: executed load instructions, one per wave, by buffer.
    requests: the sum over these of the lines that each touched, by buffer.
    lds_accesses: reads and writes of LDS, one per wave and address; without atomics.
    lds_conflicts: passes over the banks of LDS that these needed beyond the fewest (banks.py).
    """

    outputs: list[NDArray[Any]]
    launches: list[LaunchRecord]
    counts: Counter[str]
    lines: dict[int, int]
    loads: Counter[int]
    requests: Counter[int]
    lds_accesses: int
    lds_conflicts: int

    @property
    def line_requests(self) -> int:
        """Lines that all loads asked for."""
        return self.requests.total()


class Emulator:
    """A process that emulates; it is started when first needed and again after a crash."""

    def __init__(self, toolchain: Toolchain, tinygrad: Path | None = None) -> None:
        """tinygrad: the folder that holds `test/mockgpu/amd/emu.py` (default: TINYGRAD_PATH)."""
        self._toolchain = toolchain
        folder = tinygrad or Path(os.environ.get("TINYGRAD_PATH", ""))
        if not (folder / "test/mockgpu/amd/emu.py").exists():
            raise ToolchainError(f"no tinygrad emulator in {folder}: set TINYGRAD_PATH")
        self._process = EmulatorProcess(folder)
        self.executed: set[tuple[str, str]] = set()  # architectures and kernels of every launch

    def launch(
        self,
        sources: Path | Sequence[Path],
        arch: str,
        function: str,
        values: Sequence[Buffer | Struct | int | float | None],
        timeout: float = 300.0,
        kernels: Sequence[Path] | None = None,
    ) -> Run:
        """Calls `rocmforge::gpu::FUNCTION` of a .hip file and emulates what it launches.

        Several sources: the first has the function, the others what it calls. kernels: those of
        them whose kernels the call can need, which spares compiling the rest (default: all).
        The launcher is the real one: its choice of kernel, grid, block and LDS is what runs. Raises
        EmulationError when a launch fails or the launcher returns a message.
        """
        files = [sources] if isinstance(sources, Path) else list(sources)
        library = self._toolchain.host_library(files)
        symbol, types = launcher(library, function)
        if len(types) != len(values):
            raise EmulationError(f"{function} takes {len(types)} arguments, got {len(values)}")
        buffers = numbered(values)
        return self._request(
            Call(
                codes=[c.path for c in self._toolchain.compile_all(kernels or files, [arch])],
                runtime=self._runtime,
                library=library,
                symbol=symbol,
                buffers=buffers,
                types=types,
                values=[0 if v is None else v for v in values],
            ),
            buffers,
            timeout,
        )

    def emulate(
        self,
        code_object: Path,
        kernel: str,
        grid: tuple[int, int, int],
        block: tuple[int, int, int],
        values: Sequence[Buffer | Struct | np.generic | bytes | None],
        lds_bytes: int = 0,
        timeout: float = 300.0,
    ) -> Run:
        """Runs one kernel, by its short name (as docs/isa.md prints it) or its symbol.

        values: buffers, NumPy scalars of the argument's own type, structs, or None for a null
        pointer. lds_bytes: dynamic LDS.
        """
        code = CodeObject.read(code_object)
        found = [s for s, k in code.kernels.items() if kernel in (s, k.name)]
        if len(found) != 1:
            names = ", ".join(k.name for k in code.kernels.values())
            raise EmulationError(f"{len(found)} kernels called {kernel}; the file has {names}")
        buffers = numbered(values)
        plain: list[Value] = [_by_value(v) for v in values]
        request = Direct(code_object, found[0], grid, block, lds_bytes, buffers, plain)
        return self._request(request, buffers, timeout)

    def close(self) -> None:
        """Ends the process."""
        self._process.close()

    @cached_property
    def _runtime(self) -> Path:
        """The HIP runtime that launchers meet, compiled."""
        path = BUILD / "objects" / f"hip_runtime.{int(RUNTIME_SOURCE.stat().st_mtime)}.so"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = path.with_suffix(f".{os.getpid()}.tmp")
            headers = [f"-isystem{self._toolchain.headers}", "-D__HIP_PLATFORM_AMD__"]
            command = [find_program("clang++"), "-std=c++17", "-O1", "-fPIC", "-shared", *headers]
            run([*command, "-o", str(scratch), str(RUNTIME_SOURCE)])
            scratch.replace(path)
        return path

    def _request(self, message: Direct | Call, buffers: list[Buffer], timeout: float) -> Run:
        answer = self._process.request(message, timeout)
        self.executed |= {(launch.arch, launch.kernel) for launch in answer.launches}
        return Run(
            outputs=[a for a, b in zip(answer.arrays, buffers, strict=True) if b.writable],
            launches=answer.launches,
            counts=answer.counts,
            lines=answer.lines,
            loads=answer.loads,
            requests=answer.requests,
            lds_accesses=answer.lds_accesses,
            lds_conflicts=answer.lds_conflicts,
        )


def numbered(values: Sequence[object]) -> list[Buffer]:
    inside = [v.buffers() if isinstance(v, Struct) else [v] for v in values]
    buffers = [v for group in inside for v in group if isinstance(v, Buffer)]
    for number, buffer in enumerate(buffers):
        buffer.number = number
    return buffers


def _by_value(value: Buffer | Struct | np.generic | bytes | None) -> Value:
    if value is None:
        return bytes(8)
    return value.tobytes() if isinstance(value, np.generic) else value


def launcher(library: Path, function: str) -> tuple[str, list[str]]:
    """Symbol and argument types (names of ctypes) of `rocmforge::gpu::FUNCTION`."""
    lines = run([find_program("llvm-nm"), "-D", "--defined-only", library]).splitlines()
    symbols = [line.split()[-1] for line in lines]
    names = run([find_program("llvm-cxxfilt")], stdin="\n".join(symbols) + "\n").splitlines()
    prefix = f"rocmforge::gpu::{function}("
    for symbol, name in zip(symbols, names, strict=True):
        if name.startswith(prefix):
            parameters = re.split(r",\s*", name[len(prefix) : -1])
            return symbol, [_ctype(p) for p in parameters if p]
    raise EmulationError(f"{library.name} has no launcher rocmforge::gpu::{function}")


def _ctype(parameter: str) -> str:
    if parameter.endswith(("*", "&")):
        return "c_void_p"
    return _CTYPES.get(parameter, "c_int64")  # integers and enumerations fill a register
