"""`enable` and `disable`: our kernels under transformers' own GGUF loader."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType, TracebackType
from typing import Any

from torch import Tensor

from . import kernel

_replaced: list[tuple[ModuleType, str, Any]] = []


class Enabled:
    """What `enable` returns: used in a `with` statement, it disables at the end."""

    def __enter__(self) -> Enabled:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        disable()


def enable() -> Enabled:
    """Let `from_pretrained(..., gguf_file=...)` keep weights in blocks on ROCm, CUDA and the CPU.

    transformers then finds its GGUF kernel without asking a hub, and its layers use it for any
    number of rows, where they would unpack the weight for more than 8. That holds for the
    architectures in `transformers.integrations.gguf.gguf_conversion_mapping.GGUF_ARCHS`; the others
    it unpacks whatever kernel there is (`from_gguf` does not). Models loaded so need this as long
    as they compute. Enabling twice is enabling once.

    Raises:
        ImportError: this transformers has no such loader.
    """
    if _replaced:
        return Enabled()
    try:
        kernels = importlib.import_module("transformers.integrations.gguf.kernels")
        layers = importlib.import_module("transformers.integrations.gguf.utils")
    except ImportError:
        version = importlib.import_module("transformers").__version__
        raise ImportError(
            f"transformers {version} has no GGUF loader that takes a kernel; 5.23 or newer has"
        ) from None
    _replace(kernels, "_gguf_kernel", kernels.GgufKernel(kernel))
    _replace(kernels, "kernel_can_read", _can_read)
    _replace(layers, "MAX_GEMV_ROWS", sys.maxsize)
    return Enabled()


def disable() -> None:
    """Undo `enable`; without it, nothing."""
    while _replaced:
        setattr(*_replaced.pop())


def _replace(module: ModuleType, name: str, value: Any) -> None:
    _replaced.append((module, name, getattr(module, name)))
    setattr(module, name, value)


def _can_read(tensor: Tensor) -> bool:
    """Our kernels read every device, where transformers thinks of GPUs only."""
    return True
