"""Folders as transformers saves models, read as GGUF metadata and tensors without transformers."""

from __future__ import annotations

from .folder import Folder, FolderError, open_folder
from .metadata import folder_metadata
from .tensors import folder_tensors

__all__ = ["Folder", "FolderError", "folder_metadata", "folder_tensors", "open_folder"]
