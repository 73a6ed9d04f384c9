"""GGUF files: a strict parser, the mapping from files to tensors, and a writer."""

from __future__ import annotations

from .errors import GGUFError
from .model_file import GGUFModelFile, load_gguf
from .typed_metadata import typed_metadata
from .writer import TensorSource, write_gguf

__all__ = [
    "GGUFError",
    "GGUFModelFile",
    "TensorSource",
    "load_gguf",
    "typed_metadata",
    "write_gguf",
]
