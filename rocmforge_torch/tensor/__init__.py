"""`GGUFTensor`: a matrix of GGUF blocks that PyTorch sees as a matrix of numbers."""

from __future__ import annotations

# Register what a GGUFTensor can do.
from . import copies, distributed, einsum, products, views  # noqa: F401
from .gguf_tensor import GGUFTensor

__all__ = ["GGUFTensor"]
