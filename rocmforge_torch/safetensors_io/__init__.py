"""safetensors files of quantized tensors, and GGUF files as safetensors and back."""

from __future__ import annotations

from .convert import gguf_to_safetensors, safetensors_to_gguf
from .load import load_safetensors
from .save import save_safetensors

__all__ = [
    "gguf_to_safetensors",
    "load_safetensors",
    "safetensors_to_gguf",
    "save_safetensors",
]
