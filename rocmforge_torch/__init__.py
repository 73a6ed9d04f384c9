"""GGUF models as PyTorch tensors and modules whose weights stay quantized."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from . import extension

extension.load()

from . import ops  # noqa: E402
from .allocator import (  # noqa: E402
    TensorAllocator,
    allocator_stats,
    reset_allocator,
    with_allocator,
)
from .config import config  # noqa: E402
from .gguf import GGUFError, GGUFModelFile, load_gguf  # noqa: E402
from .tensor import GGUFTensor  # noqa: E402

if TYPE_CHECKING:
    from .models import load_model

__all__ = [
    "GGUFError",
    "GGUFModelFile",
    "GGUFTensor",
    "TensorAllocator",
    "allocator_stats",
    "config",
    "load_gguf",
    "load_model",
    "ops",
    "reset_allocator",
    "with_allocator",
]


def __getattr__(name: str) -> Any:
    """`load_model` when it is first asked for: programs that `rocmforge export` wrote run without
    a module of a model."""
    if name != "load_model":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .models import load_model

    globals()[name] = load_model
    return load_model
