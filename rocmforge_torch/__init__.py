"""GGUF models as PyTorch tensors and modules whose weights stay quantized."""

from __future__ import annotations

import importlib
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
from .tuning import in_force  # noqa: E402

in_force.load()

if TYPE_CHECKING:
    from .models import load_model
    from .nn import quantize_
    from .research import explain

__all__ = [
    "GGUFError",
    "GGUFModelFile",
    "GGUFTensor",
    "TensorAllocator",
    "allocator_stats",
    "config",
    "explain",
    "load_gguf",
    "load_model",
    "ops",
    "quantize_",
    "reset_allocator",
    "with_allocator",
]

# Imported when first asked for: programs that `rocmforge export` wrote run without these modules.
_MODULES = {"explain": ".research", "load_model": ".models", "quantize_": ".nn"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name], __name__), name)
    globals()[name] = value
    return value
