"""A folder with config.json, safetensors and tokenizer files."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .architectures import ARCHITECTURES, Architecture

CONFIG = "config.json"
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class FolderError(ValueError):
    """A folder is no model, or none that has a GGUF form; the message names the file."""


@dataclass(frozen=True)
class Folder:
    """An opened folder.

    Attributes:
        path: where it is.
        config: of the text model, with the architecture's defaults where config.json is silent.
        row: its row of the table of architectures.
        files: safetensors key -> the file that holds it.
    """

    path: Path
    config: Mapping[str, Any]
    row: Architecture
    files: Mapping[str, Path]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files of weights."""
        return tuple(sorted(set(self.files.values())))

    def json(self, name: str) -> dict[str, Any]:
        """A JSON file of the folder; empty where there is none."""
        return read_json(self.path / name) if (self.path / name).is_file() else {}

    def error(self, name: str, problem: str) -> FolderError:
        return FolderError(f"{self.path / name}: {problem}")


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds one JSON object.

    Raises:
        FolderError: it does not.
        OSError: it cannot be read.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise FolderError(f"{path}: no valid JSON ({problem})") from None
    if not isinstance(value, dict):
        raise FolderError(f"{path}: must hold an object, it holds {type(value).__name__}")
    return value


def open_folder(path: str | os.PathLike[str]) -> Folder:
    """Open a folder; weights are not read.

    Raises:
        FolderError: a file is missing or invalid, or the model is of no architecture that
            `rocmforge_torch.models` has.
        OSError: a file cannot be read.
    """
    path = Path(path)
    if not (path / CONFIG).is_file():
        raise FolderError(f"{path}: no {CONFIG}, so this is no folder of a transformers model")
    config = read_json(path / CONFIG)
    # Models of several modalities keep the language model's numbers apart.
    config = config | config.get("text_config", {})
    kind = config.get("model_type")
    if kind not in ARCHITECTURES:
        raise FolderError(
            f"{path / CONFIG}: model_type {kind!r} is not supported; supported are "
            f"{', '.join(ARCHITECTURES)}"
        )
    if config.get("quantization_config"):
        raise FolderError(
            f"{path / CONFIG}: the weights are quantized already (quantization_config); "
            "take the model they were made from"
        )
    row = ARCHITECTURES[kind]
    return Folder(path, row.defaults | config, row, _weight_files(path))


def _weight_files(path: Path) -> dict[str, Path]:
    from safetensors import SafetensorError, safe_open

    if (path / INDEX).is_file():
        weight_map = read_json(path / INDEX).get("weight_map", {})
        files = {str(key): path / Path(str(name)).name for key, name in weight_map.items()}
        for file in sorted(set(files.values())):
            if not file.is_file():
                raise FolderError(f"{path / INDEX}: {file.name} is missing")
        return files
    if not (path / SINGLE).is_file():
        raise FolderError(f"{path}: neither {INDEX} nor {SINGLE}; only safetensors are read")
    try:
        with safe_open(path / SINGLE, framework="pt") as opened:
            return dict.fromkeys(opened.keys(), path / SINGLE)
    except SafetensorError as problem:
        raise FolderError(f"{path / SINGLE}: {problem}") from None
