"""Hugging Face transformers: its own model classes on GGUF weights that stay quantized."""

from __future__ import annotations

from .from_gguf import from_gguf
from .loader import disable, enable
from .quantizer import RocmForgeConfig

__all__ = ["RocmForgeConfig", "disable", "enable", "from_gguf"]
