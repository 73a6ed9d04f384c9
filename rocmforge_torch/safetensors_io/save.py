"""`save_safetensors`: tensors, quantized ones among them, one after the other into files."""

from __future__ import annotations

import json
import math
import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..tensor import GGUFTensor
from .header import METADATA, ORDER, TENSORS, describe, dumps, encode

# The names of the format's specification.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
MOST_HEADER_BYTES = 100_000_000  # readers refuse more
ALIGNMENT = 8


@dataclass(frozen=True)
class Entry:
    """A tensor of a file: what is stored for it, by dtype and shape, and what it is if quantized.

    The tensor itself is asked for when its turn comes.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    description: dict[str, Any] | None

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> Entry:
        if isinstance(tensor, GGUFTensor):
            return cls(name, torch.uint8, tuple(tensor.qweight.shape), describe(tensor))
        if tensor.dtype not in DTYPES:
            raise ValueError(f"tensor {name!r} has dtype {tensor.dtype}, which safetensors has not")
        return cls(name, tensor.dtype, tuple(tensor.shape), None)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def save_safetensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, Any] | None = None,
    *,
    max_shard_bytes: int | None = None,
) -> list[Path]:
    """Write tensors to a safetensors file, or to several as Hugging Face names them.

    A `GGUFTensor` is stored as its blocks, uint8 [..., row_bytes], in the layout of GGUF files; the
    header says what they are. Tensors are asked for one by one, so that a mapping which makes them
    (`load_gguf(...).tensors`) is never in memory as a whole. A file appears whole or not at all.

    Args:
        path: the file, NAME.safetensors.
        tensors: name -> tensor; of GGUF's types all, of torch's those that the format has.
        metadata: GGUF metadata to keep beside them, as `write_gguf` takes it.
        max_shard_bytes: the most bytes of tensors in one file. If they have more, the files are
            NAME-00001-of-0000N.safetensors, and NAME.safetensors.index.json says which holds what.
            A single tensor may be larger.

    Returns:
        The files that hold tensors.

    Raises:
        ValueError: the name does not end in .safetensors, max_shard_bytes is not positive, a dtype
            or value cannot be stored, or there is too much metadata.
        OSError: a file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(f"path must end in .safetensors, got {str(path)!r}")
    if max_shard_bytes is not None and max_shard_bytes < 1:
        raise ValueError(f"max_shard_bytes must be positive, got {max_shard_bytes}")
    entries = [Entry.of(name, tensors[name]) for name in tensors]
    first = {ORDER: dumps([entry.name for entry in entries])}
    if metadata is not None:
        first[METADATA] = dumps({key: encode(value) for key, value in metadata.items()})
    shards = _shards(entries, max_shard_bytes)
    count = len(shards)
    paths = [path]
    if count > 1:
        paths = [path.with_stem(f"{path.stem}-{i + 1:05d}-of-{count:05d}") for i in range(count)]
    for i, (shard, target) in enumerate(zip(shards, paths, strict=True)):
        _write(target, shard, tensors, first if i == 0 else {})
    if count > 1:
        names = {
            entry.name: target.name
            for shard, target in zip(shards, paths, strict=True)
            for entry in shard
        }
        total = sum(entry.nbytes for entry in entries)
        index = {"metadata": {"total_size": total}, "weight_map": names}
        path.with_name(f"{path.name}.index.json").write_text(json.dumps(index, indent=2) + "\n")
    return paths


def _shards(entries: Iterable[Entry], most: int | None) -> list[list[Entry]]:
    shards: list[list[Entry]] = [[]]
    taken = 0
    for entry in entries:
        if shards[-1] and most is not None and taken + entry.nbytes > most:
            shards.append([])
            taken = 0
        shards[-1].append(entry)
        taken += entry.nbytes
    return shards


def _write(
    path: Path, entries: list[Entry], tensors: Mapping[str, Tensor], keys: dict[str, str]
) -> None:
    # Readers view the mapped file: large numbers first, so that each lies at a multiple of its
    # size. Between tensors the format allows no gaps.
    entries = sorted(entries, key=lambda entry: -entry.dtype.itemsize)
    found = {entry.name: entry.description for entry in entries if entry.description}
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **keys, TENSORS: dumps(found)}}
    offset = 0
    for entry in entries:
        end = offset + entry.nbytes
        place = {"dtype": DTYPES[entry.dtype], "shape": entry.shape, "data_offsets": [offset, end]}
        header[entry.name] = place
        offset = end
    text = dumps(header).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    if len(text) > MOST_HEADER_BYTES:
        raise ValueError(
            f"names and metadata take {len(text)} bytes, the header of a safetensors file at most "
            f"{MOST_HEADER_BYTES}"
        )
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with partial.open("wb") as file:
            file.write(struct.pack("<Q", len(text)))
            file.write(text)
            for entry in entries:
                file.write(_bytes(tensors[entry.name], entry))
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _bytes(tensor: Tensor, entry: Entry) -> memoryview:
    stored = tensor.unpacked().qweight if isinstance(tensor, GGUFTensor) else tensor.detach()
    if (stored.dtype, tuple(stored.shape)) != (entry.dtype, entry.shape):
        raise ValueError(f"tensor {entry.name!r} changed while it was being saved")
    data: memoryview = stored.cpu().contiguous().view(-1).view(torch.uint8).numpy().data
    return data
