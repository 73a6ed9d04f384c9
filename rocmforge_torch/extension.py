"""Finds and loads the compiled kernel libraries.

`librocmforge_cpu.so` holds the CPU kernels, `librocmforge_gpu.so` the GPU ones (built by hipcc or
nvcc from the same source). Loading registers their kernels with torch's dispatcher; operations
without a kernel run the reference in `ops/reference`, with one warning.
"""

from __future__ import annotations

import contextlib
import ctypes
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from .tuning.limits import Limits

LIBRARY_DIR = Path(__file__).parent / "lib"

_loaded: dict[str, ctypes.CDLL] = {}
_Numbers = ctypes.c_int64 * 3


def load() -> None:
    """Load every library that was built and that this torch can use."""
    _load("cpu", required=True)
    if torch.cuda.is_available():
        _load("gpu", required=True)
        # When the process first uses a GPU; importing this package must not be that.
        torch.cuda._lazy_call(_warn_of_missing_code)


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


def has_gpu_library() -> bool:
    """Whether this process computes with kernels of a GPU."""
    return "gpu" in _loaded


def interpreter_library() -> ctypes.PyDLL | None:
    """The CPU library for calls that look into Python's objects: they keep its lock."""
    path = loaded().get("cpu")
    return None if path is None else ctypes.PyDLL(str(path))


def set_exact(exact: bool) -> None:
    """Tell every loaded library whether quantized products are computed in float."""
    for library in _loaded.values():
        library.rocmforge_set_exact(ctypes.c_int(exact))


@contextlib.contextmanager
def inputs_at_rest() -> Iterator[None]:
    """Promise, for this thread, that no kernel that it has yet to see done writes to weights, to
    positions, slots, lengths and block tables, or to a cache but at the positions of the tokens
    that are computed: ops on a GPU may then read all that while the kernels ahead of them still
    run."""
    library = _loaded.get("gpu")
    if library is not None:
        library.rocmforge_set_inputs_at_rest(ctypes.c_int(True))
    try:
        yield
    finally:
        if library is not None:
            library.rocmforge_set_inputs_at_rest(ctypes.c_int(False))


def cpu_instruction_set() -> str:
    """The instruction set that the CPU kernels chose: portable, avx2 or avx512."""
    return _text("cpu", "rocmforge_cpu_instruction_set") or "none"


def gpu_architectures() -> tuple[str, ...]:
    """What the GPU library holds code for, e.g. gfx1100, sm_90, or compute_90 (PTX, which later
    cards compile for themselves); empty without a library."""
    return tuple(_text("gpu", "rocmforge_gpu_architectures").split())


def product_limits(index: int, qtype: int) -> Limits:
    """Up to how many rows of activations the kernels of a GPU take products with weights of a type,
    by the GPU library, which must be there."""
    found = _Numbers()
    _loaded["gpu"].rocmforge_product_limits(index, qtype, found)
    return Limits(*found)


def most_fused_rows(index: int, qtype: int) -> int:
    """The last of these limits, at the cost of one call: layers ask before they run."""
    most: int = _loaded["gpu"].rocmforge_most_fused_rows(index, qtype)
    return most


def set_product_limits(index: int, qtype: int, limits: Limits) -> None:
    """Have the GPU library choose by these limits from now on, in all threads.

    Raises:
        RuntimeError: there is no such library, or no such kernels in it.
    """
    library = _loaded.get("gpu")
    numbers = _Numbers(limits.matvec, limits.multirow, limits.tile)
    if library is None or not library.rocmforge_set_product_limits(index, qtype, numbers):
        raise RuntimeError(f"the GPU library has no kernels for {limits} of type {qtype}")


def product_kernel(device: str, qtype: int, m: int, n: int, k: int) -> str:
    """The kernel that a loaded library takes now (`config.exact` and limits in force count) for a
    product of activations [m, k] with quantized weights [n, k].

    Args:
        device: "cpu", or a GPU: "cuda", "cuda:1".
        qtype: the GGML type's number.

    Returns:
        dot, panel_product, float_product or double_product on a CPU (docs/cpu_kernels.md); matvec,
        multirow, tile, "expand, GEMM" or GEMM on a GPU (docs/performance.md); "" without a library.
    """
    library = "cpu" if device == "cpu" else "gpu"
    if library not in _loaded:
        return ""
    index = 0 if library == "cpu" else torch.device(device).index
    numbers = (torch.cuda.current_device() if index is None else index, qtype)
    sizes = (ctypes.c_int64(size) for size in (m, n, k))
    return _text(library, "rocmforge_product_kernel", *map(ctypes.c_int, numbers), *sizes)


def _text(device: str, function: str, *arguments: Any) -> str:
    """What a function of a loaded library says."""
    if device not in _loaded:
        return ""
    call = getattr(_loaded[device], function)
    call.restype = ctypes.c_char_p
    return str(call(*arguments).decode())


def architecture(index: int) -> str:
    """What compilers call the architecture of a GPU: gfx1100, sm_90."""
    properties = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        name: str = properties.gcnArchName
        return name.partition(":")[0]  # behind it stand features, as in gfx90a:sramecc+:xnack-
    return f"sm_{properties.major}{properties.minor}"


def missing_code(index: int) -> str | None:
    """One sentence if the GPU library holds no code for a GPU, else None.

    Without a GPU library the answer is None too: then the reference runs, and has said so.
    """
    inside = gpu_architectures()
    found = architecture(index)
    if not inside or any(_runs(code, found) for code in inside):
        return None
    if torch.version.hip:
        build = f"PYTORCH_ROCM_ARCH={found}"
    else:
        build = f"TORCH_CUDA_ARCH_LIST={found[3:-1]}.{found[-1]}"
    name = torch.cuda.get_device_properties(index).name
    return (
        f"rocmforge_torch holds no code for cuda:{index}, {name} ({found}), only for "
        f"{', '.join(inside)}: build it again with `{build} pip install .`"
    )


def _runs(code: str, found: str) -> bool:
    """Whether code for one architecture runs on another.

    AMD's runs on its own only. NVIDIA's sm_XY runs on later ones of the same X, PTX on all later;
    with an "a" behind it, on its own only, with an "f" on later ones of the same X.
    """
    kind, _, version = code.partition("_")
    if kind not in ("sm", "compute") or not found.startswith("sm_"):
        return code == found
    needs, has = int(version.rstrip("af")), int(found[3:])
    if version.endswith("a"):
        return needs == has
    any_later = kind == "compute" and not version.endswith("f")
    return needs <= has and (any_later or needs // 10 == has // 10)


def _warn_of_missing_code() -> None:
    """One warning for each GPU that no kernel can start on, before the first one tries."""
    for index in range(torch.cuda.device_count()):
        problem = missing_code(index)
        if problem is not None:
            warnings.warn(problem, RuntimeWarning, stacklevel=2)


_checked: set[int] = set()


def check_device(device: torch.device) -> torch.device:
    """The device with its number; a GPU is looked at once, whether the library has code for it.

    Raises:
        RuntimeError: torch has no such GPU, or the library no code for it: then the sentence names
            the card, the architectures inside and what to build. Or a file that says which kernels
            to take there is no such table.
    """
    if device.type != "cuda":
        return device
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if count <= (device.index or 0):
        raise RuntimeError(
            f"device {device}: torch can use {count} GPU(s) here; `rocmforge doctor` says more"
        )
    index = torch.cuda.current_device() if device.index is None else device.index
    if index not in _checked:
        from .tuning.in_force import problem as unread_table  # which itself needs this module

        problem = missing_code(index) or unread_table(index)
        if problem is not None:
            raise RuntimeError(problem)
        _checked.add(index)
    return torch.device("cuda", index)
