"""`load_safetensors`: tensors and GGUF metadata of safetensors files."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .. import extension
from .header import METADATA, ORDER, TENSORS, decode, loads, restore

INDEX = ".index.json"


def load_safetensors(
    path: str | os.PathLike[str], device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """The tensors that `save_safetensors` wrote, or those of any other safetensors file.

    On the CPU they view the mapped file: nothing is read until it is used.

    Args:
        path: the file, or the NAME.safetensors.index.json of several, or NAME.safetensors where
            only that exists.
        device: where the tensors are.

    Returns:
        name -> tensor, in the order in which they were saved: a `GGUFTensor` where the header
        describes one (packed again on a GPU, if it was), else a plain tensor.

    Raises:
        ValueError: a file is no safetensors file, its header contradicts itself, or the index is
            damaged.
        OSError: a file cannot be opened.
    """
    device = extension.check_device(torch.device(device))
    found: dict[str, Tensor] = {}
    order: list[str] = []
    for file, header in _opened(Path(path), device):
        described = loads(header, TENSORS, dict, Path(path))
        order += loads(header, ORDER, list, Path(path))
        for name in file.keys():  # noqa: SIM118  (no mapping)
            tensor = file.get_tensor(name)
            if name in described:
                tensor = restore(name, tensor, described[name], Path(path))
            found[name] = tensor
    ordered = [name for name in order if name in found]
    return {name: found[name] for name in dict.fromkeys([*ordered, *found])}


def load_gguf_metadata(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The GGUF metadata in safetensors files, as `typed_metadata` gives it; None if there is none.

    Raises:
        As `load_safetensors`.
    """
    for _, header in _opened(Path(path), torch.device("cpu")):
        if METADATA in header:
            entries = loads(header, METADATA, dict, Path(path))
            return {key: decode(key, entry, Path(path)) for key, entry in entries.items()}
    return None


def _opened(path: Path, device: torch.device) -> Iterator[tuple[Any, dict[str, str]]]:
    """Every file of a model and the strings in its header."""
    for part in _paths(path):
        part.open("rb").close()  # for the error of the system
        try:
            with safe_open(part, framework="pt", device=str(device)) as file:
                yield file, file.metadata() or {}
        except SafetensorError as problem:
            raise ValueError(f"{part}: no safetensors file ({problem})") from None


def _paths(path: Path) -> list[Path]:
    index = path if path.name.endswith(INDEX) else path.with_name(path.name + INDEX)
    if path != index and (path.exists() or not index.exists()):
        return [path]
    try:
        names = json.loads(index.read_text())["weight_map"].values()
        if any(Path(name).name != name for name in names):
            raise ValueError("names a file elsewhere")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as problem:
        raise ValueError(f"{index}: no index of safetensors files ({problem})") from None
    return [index.with_name(name) for name in dict.fromkeys(names)]
