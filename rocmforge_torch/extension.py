"""Finds and loads the compiled kernel libraries.

`librocmforge_cpu.so` holds the CPU kernels, `librocmforge_gpu.so` the GPU ones (built by hipcc or
nvcc from the same source). Loading registers their kernels with torch's dispatcher; operations
without a kernel run the reference in `ops/reference`, with one warning.
"""

from __future__ import annotations

import ctypes
import warnings
from pathlib import Path

import torch

LIBRARY_DIR = Path(__file__).parent / "lib"

_loaded: dict[str, ctypes.CDLL] = {}


def load() -> None:
    """Load every library that was built and that this torch can use."""
    _load("cpu", required=True)
    if torch.cuda.is_available():
        _load("gpu", required=True)


def _load(device: str, required: bool) -> None:
    path = LIBRARY_DIR / f"librocmforge_{device}.so"
    if path.exists():
        torch.ops.load_library(path)
        _loaded[device] = ctypes.CDLL(str(path))
    elif required:
        warnings.warn(
            f"rocmforge_torch has no {device.upper()} kernel library ({path.name} was not built): "
            "its slow reference implementations are used. Build it with `pip install .`; "
            "`rocmforge doctor` says what is missing.",
            RuntimeWarning,
            stacklevel=3,
        )


def loaded() -> dict[str, Path]:
    """The libraries in use: device -> file."""
    return {device: LIBRARY_DIR / f"librocmforge_{device}.so" for device in _loaded}


def set_exact(exact: bool) -> None:
    """Tell every loaded library whether quantized products are computed in float."""
    for library in _loaded.values():
        library.rocmforge_set_exact(ctypes.c_int(exact))


def cpu_instruction_set() -> str:
    """The instruction set that the CPU kernels chose: portable, avx2 or avx512."""
    if "cpu" not in _loaded:
        return "none"
    name = _loaded["cpu"].rocmforge_cpu_instruction_set
    name.restype = ctypes.c_char_p
    return str(name().decode())
