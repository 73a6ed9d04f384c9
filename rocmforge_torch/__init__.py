"""GGUF models as PyTorch tensors and modules whose weights stay quantized."""

from __future__ import annotations

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
from .models import load_model  # noqa: E402
from .nn.quantize import quantize_  # noqa: E402
from .research import explain  # noqa: E402
from .tensor import GGUFTensor  # noqa: E402

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
