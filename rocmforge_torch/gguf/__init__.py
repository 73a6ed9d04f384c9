"""GGUF files: a strict parser and the mapping from files to tensors."""

from __future__ import annotations

from .errors import GGUFError
from .model_file import GGUFModelFile, load_gguf
from .state_dict import load_state_dict

__all__ = ["GGUFError", "GGUFModelFile", "load_gguf", "load_state_dict"]
