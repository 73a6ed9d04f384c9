"""What is quantized: a GGUF file, or a folder as transformers saves models."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..gguf import GGUFError, load_gguf, typed_metadata
from ..gguf.checks import ARCHITECTURE
from ..gguf.lazy_tensor import LazyTensor, lazy_tensors
from ..huggingface import folder_metadata, folder_tensors, open_folder


@dataclass(frozen=True)
class ModelSource:
    """A model before it is written.

    Attributes:
        paths: the files it consists of.
        metadata: its GGUF keys.
        tensors: its tensors, under their GGUF names.
    """

    paths: tuple[Path, ...]
    metadata: dict[str, Any]
    tensors: Sequence[LazyTensor]


def open_model(path: str | os.PathLike[str]) -> ModelSource:
    """Open a GGUF file (of a split model, any shard) or a folder with config.json and safetensors.

    Nothing but headers and tokenizer files is read until a tensor is asked for.

    Raises:
        GGUFError: the file is no valid GGUF, or no model.
        FolderError: the folder is no model that can be converted.
        OSError: something cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        folder = open_folder(path)
        return ModelSource(folder.paths, folder_metadata(folder), folder_tensors(folder))
    file = load_gguf(path)
    if file.architecture is None:
        raise GGUFError(
            "is missing, so this is no model", source=str(path), subject=f"key {ARCHITECTURE!r}"
        )
    return ModelSource(file.paths, typed_metadata(file), lazy_tensors(file))
