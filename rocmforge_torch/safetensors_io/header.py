"""What the header of a safetensors file says about GGUF blocks and metadata.

A safetensors header maps strings to strings. Three keys, each a JSON document, are ours:

    gguf.tensors    name -> {"type": "Q4_K", "dtype": "bfloat16", "layout": 0} of every quantized
                    tensor in this file; what is stored under the name are its blocks, uint8.
    gguf.order      the names of all tensors in their order; in the first file only.
    gguf.metadata   key -> [type, value], of an array ["array", element type, values]; likewise.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..quant_types import quant_type
from ..tensor import GGUFTensor

TENSORS, ORDER, METADATA = "gguf.tensors", "gguf.order", "gguf.metadata"
PYTHON_TYPES = {"bool": bool, "int": int, "float": float, "str": str}


def dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def loads(header: Mapping[str, str], key: str, kind: type, path: Path) -> Any:
    """The document under a key, empty if there is none.

    Raises:
        ValueError: it is no JSON, or not of this kind.
    """
    try:
        value = json.loads(header[key]) if key in header else kind()
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: {key!r} in the header is no JSON") from None
    if not isinstance(value, kind):
        raise ValueError(f"{path}: {key!r} in the header must be a {kind.__name__}")
    return value


def describe(tensor: GGUFTensor) -> dict[str, Any]:
    """The entry of a quantized tensor."""
    return {
        "type": quant_type(tensor.qtype).name,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "layout": tensor.qlayout,
    }


def restore(name: str, blocks: Tensor, entry: Any, path: Path) -> GGUFTensor:
    """The quantized tensor of some blocks, uint8 [..., row_bytes], on their device.

    It gets the packed layout again if it had it, but not on the CPU.

    Raises:
        ValueError: the entry does not describe such blocks.
    """
    try:
        dtype = getattr(torch, entry["dtype"])
        tensor = GGUFTensor(blocks, quant_type(entry["type"]).id, dtype)
        packed = bool(entry["layout"]) and blocks.device.type != "cpu"
        return tensor.packed() if packed else tensor
    except (KeyError, TypeError, AttributeError, ValueError) as problem:
        raise ValueError(
            f"{path}: {TENSORS!r} in the header describes no GGUF tensor by {entry!r:.120} for "
            f"{name!r}, {blocks.dtype} {list(blocks.shape)} ({problem})"
        ) from None


def encode(value: Any) -> list[Any]:
    """A value of GGUF metadata with its type, for JSON.

    Raises:
        ValueError: it is none that GGUF metadata can hold.
    """
    if isinstance(value, np.generic):
        return [value.dtype.name, value.item()]
    if type(value).__name__ in PYTHON_TYPES:
        return [type(value).__name__, value]
    if isinstance(value, np.ndarray):
        return ["array", value.dtype.name, value.tolist()]
    if isinstance(value, tuple):
        return ["array", "array", [encode(item) for item in value]]
    items = list(value)
    if all(isinstance(item, str) for item in items):
        return ["array", "str", items]
    kinds = {type(item).__name__ for item in items}
    if len(kinds) > 1 or not kinds <= PYTHON_TYPES.keys():
        raise ValueError(f"GGUF metadata holds no array of {', '.join(sorted(kinds))}")
    return ["array", kinds.pop(), items]


def decode(key: str, entry: Any, path: Path) -> Any:
    """The inverse of `encode`.

    Raises:
        ValueError: it is none.
    """
    try:
        kind, *rest = entry
        if kind == "array":
            kind, values = rest
            if kind == "array":
                return tuple(decode(key, value, path) for value in values)
            if kind in PYTHON_TYPES:
                # Of numpy's names only that of bool is Python's, too.
                return np.array(values, bool) if kind == "bool" else list(values)
            return np.array(values, np.dtype(kind))
        (value,) = rest
        return PYTHON_TYPES[kind](value) if kind in PYTHON_TYPES else np.dtype(kind).type(value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        raise ValueError(f"{path}: {METADATA!r} in the header has no value for {key!r}") from None
