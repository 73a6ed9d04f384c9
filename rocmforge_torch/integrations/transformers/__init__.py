"""Hugging Face transformers: its own model classes on GGUF weights that stay quantized."""

from __future__ import annotations

from .from_gguf import from_gguf

__all__ = ["from_gguf"]
