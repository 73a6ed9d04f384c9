"""`GGUFTensor`: a matrix of GGUF blocks that PyTorch sees as a matrix of numbers."""

from __future__ import annotations

from . import copies, distributed, products, views  # noqa: F401  (register what a GGUFTensor can do)
from .gguf_tensor import GGUFTensor

__all__ = ["GGUFTensor"]
