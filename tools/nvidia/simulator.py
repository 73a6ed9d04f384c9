"""Compiles translated kernels for the host and calls their launchers in a process of its own."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..amd.emulator.api import launcher, numbered
from ..amd.emulator.messages import Buffer, Struct
from ..amd.emulator.trace import MemoryFault
from ..amd.emulator.worker import GuardedBuffer
from ..amd.toolchain import CSRC, REPRESENTATIVE
from .translate import translate

HERE = Path(__file__).parent
FLAGS = ("-x", "c++", "-std=c++17", "-O1", "-Xcompiler", "-fPIC,-w,-fpermissive")
SOURCES = ("attention*.hip", "tile_input.hip", "tile_splits.hip")  # of csrc/hip
FAMILY = re.compile(r"_(simple|k|grid|small)$")
Argument = Buffer | Struct | int | float | None


class SimulationError(Exception):
    """A compilation failed, a launcher refused, or a kernel crashed or wrote where it must not."""


class Simulator:
    """Products with one type of every family (tools/amd/representative.hip), and attention."""

    def __init__(self, folder: Path) -> None:
        """folder: for what is compiled.

        Raises SimulationError without nvcc, whose headers and host compiler are used.
        """
        found = shutil.which("nvcc")
        if found is None:
            raise SimulationError("no nvcc on PATH")
        self._nvcc, self._folder = found, folder
        self._pool: ProcessPoolExecutor | None = None

    def launch(
        self,
        function: str,
        values: Sequence[Argument],
        late: Mapping[int, NDArray[np.bool_]] | None = None,
    ) -> list[NDArray[Any]]:
        """Calls `rocmforge::gpu::FUNCTION`; the launcher of a family is that of its representative.

        Args:
            values: the arguments.
            late: by the number of a buffer in the arguments, its bytes that kernels write which may
                still run. They are poison until a thread of the block has waited for those.

        Returns:
            the writable buffers afterwards, in the order of the arguments.

        Raises:
            SimulationError: as it says.
        """
        name = FAMILY.sub("_representative", function)
        symbol, types = launcher(self._library, name)
        buffers = numbered(values)
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, get_context("spawn"))
        call = (self._library, symbol, types, [0 if v is None else v for v in values], buffers)
        try:
            return self._pool.submit(_call, *call, dict(late or {})).result()
        except BrokenProcessPool:
            self._pool = None
            raise SimulationError(f"{name} crashed") from None
        except (MemoryFault, ValueError) as error:
            raise SimulationError(f"{name}: {error}") from error

    def close(self) -> None:
        """Ends the process."""
        if self._pool is not None:
            self._pool.shutdown()

    @cached_property
    def _library(self) -> Path:
        sources = self._folder / "sources"
        shutil.rmtree(sources, ignore_errors=True)
        translate(CSRC, sources)
        files = [f for pattern in SOURCES for f in sorted((sources / "hip").glob(pattern))]
        files += [REPRESENTATIVE, HERE / "host_cuda.cpp"]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(self._object, files))
        library = self._folder / "kernels.so"
        self._run(["-shared", "-o", library, *objects])
        return library

    def _object(self, source: Path) -> Path:
        out = self._folder / f"{source.stem}.o"
        headers = ["--pre-include", HERE / "host_cuda.h", f"-I{self._folder / 'sources'}"]
        self._run([*FLAGS, *headers, "-c", source, "-o", out])
        return out

    def _run(self, arguments: Sequence[str | Path]) -> None:
        done = subprocess.run([self._nvcc, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise SimulationError(f"nvcc failed:\n{done.stderr[-4000:]}")


def _call(
    library: Path,
    symbol: str,
    types: Sequence[str],
    values: Sequence[Buffer | Struct | int | float],
    buffers: Sequence[Buffer],
    late: Mapping[int, NDArray[np.bool_]],
) -> list[NDArray[Any]]:
    loaded = ctypes.CDLL(str(library))
    memories = [GuardedBuffer(i, buffer) for i, buffer in enumerate(buffers)]

    def address(buffer: Buffer) -> int:
        return memories[buffer.number].region.start

    placed = [v.placed(address) if isinstance(v, Struct) else v for v in values]
    given = [
        ctypes.addressof(v)
        if isinstance(v, ctypes.Structure)
        else address(v)
        if isinstance(v, Buffer)
        else v
        for v in placed
    ]
    masks = {i: np.ascontiguousarray(mask).view(np.uint8) for i, mask in late.items()}
    for i, mask in masks.items():
        at = ctypes.c_void_p(memories[i].region.start)
        loaded.simulate_late(at, mask.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(mask.size))
    function = getattr(loaded, symbol)
    function.restype = ctypes.c_char_p
    kinds = [getattr(ctypes, kind) for kind in types]
    refusal = function(*[kind(value) for kind, value in zip(kinds, given, strict=True)])
    loaded.forget_late()
    if refusal is not None:
        raise ValueError(f"the launcher refused: {refusal.decode()}")
    return [m.result() for m, b in zip(memories, buffers, strict=True) if b.writable]
