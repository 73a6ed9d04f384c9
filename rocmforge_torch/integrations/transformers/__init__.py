"""Hugging Face transformers: its own model classes on GGUF weights that stay quantized."""

from __future__ import annotations

from .cache import RocmForgeCache
from .from_gguf import from_gguf
from .loader import disable, enable
from .quantizer import RocmForgeConfig
from .tokenizer import tokenizer_from_gguf

__all__ = [
    "RocmForgeCache",
    "RocmForgeConfig",
    "disable",
    "enable",
    "from_gguf",
    "tokenizer_from_gguf",
]
