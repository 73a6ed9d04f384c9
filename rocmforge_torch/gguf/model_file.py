"""`load_gguf`: a GGUF file as metadata and tensors that stay in the mapped file."""

from __future__ import annotations

import mmap
import os
import stat
import sys
import weakref
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from ..tensor import GGUFTensor
from .byte_order import swap_bytes
from .checks import ARCHITECTURE, TOKENS, check_metadata, vocab_size_key
from .cursor import Buffer
from .errors import GGUFError, quote
from .reader import Header, TensorInfo, read_header
from .splits import merge_metadata, shard_paths

# How often this process opened a GGUF file ("opens") and parsed a header ("header_parses").
COUNTERS: Counter[str] = Counter()

PLAIN_DTYPES = {
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F64": torch.float64,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
EMBEDDING = "token_embd.weight"
NATIVE_ORDER = "<" if sys.byteorder == "little" else ">"

# A private mapping may be written to, so without this flag Linux would count it as memory and
# refuse a file larger than RAM. Python names it since 3.13; the number is the one of x86 and ARM.
_NORESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)


@dataclass(frozen=True)
class Shard:
    """One file: its parsed header and its bytes."""

    header: Header
    buffer: Buffer


class TensorMap(Mapping[str, torch.Tensor]):
    """The tensors of a model by name; each is made when it is asked for.

    As long as somebody holds a tensor, asking again gives the same one.
    """

    def __init__(
        self, shards: Sequence[Shard], device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self._entries = {
            info.name: (shard, info) for shard in shards for info in shard.header.tensors.values()
        }
        self._device = device
        self._dtype = dtype
        self._alive: weakref.WeakValueDictionary[str, torch.Tensor] = weakref.WeakValueDictionary()

    def __getitem__(self, name: str) -> torch.Tensor:
        tensor = self._alive.get(name)
        if tensor is None:
            tensor = self._alive[name] = self._make(*self._entries[name])
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def info(self, name: str) -> TensorInfo:
        """Type, shape, place and size of a tensor, without making it."""
        return self._entries[name][1]

    def __repr__(self) -> str:
        return f"TensorMap({len(self)} tensors, device={self._device})"

    def _make(self, shard: Shard, info: TensorInfo) -> torch.Tensor:
        data = torch.frombuffer(
            shard.buffer, dtype=torch.uint8, count=info.nbytes, offset=info.offset
        )
        if shard.header.order != NATIVE_ORDER:
            data = _to_native_order(data, shard.header, info)
        plain = PLAIN_DTYPES.get(info.qtype.name)
        if plain is not None:
            values = data.view(plain).view(info.shape)
            cast = self._dtype if values.is_floating_point() else None
            return values.to(device=self._device, dtype=cast)
        blocks = data.view(*info.shape[:-1], _row_bytes(info)).to(self._device)
        return GGUFTensor(blocks, info.qtype.id, self._dtype or torch.float32)


class GGUFModelFile:
    """A loaded GGUF model, from one file or from several shards.

    Attributes:
        paths: the files, in order; `path` is the one asked for.
        metadata: key -> ``bool | int | float | str``, a read-only numpy array, a sequence of
            strings that are decoded on access, or a tuple of arrays.
        tensors: name -> ``torch.Tensor`` for plain types, :class:`GGUFTensor` for quantized ones;
            shapes are torch's, slowest dimension first. On the CPU they are the mapped file itself.
    """

    def __init__(
        self,
        path: Path,
        paths: Sequence[Path],
        shards: Sequence[Shard],
        device: torch.device,
        dtype: torch.dtype | None,
    ) -> None:
        self.path = path
        self.paths = tuple(paths)
        self.headers = tuple(shard.header for shard in shards)
        self.metadata: Mapping[str, Any] = MappingProxyType(merge_metadata(self.headers))
        self.tensors = TensorMap(shards, device, dtype)

    @property
    def architecture(self) -> str | None:
        """``general.architecture``, e.g. ``"gemma3"``; ``None`` if the file does not say."""
        return self.metadata.get(ARCHITECTURE)

    @property
    def vocab_size(self) -> int | None:
        """The vocabulary's size: by its key, else the token list, else the embedding's rows."""
        declared = self.metadata.get(vocab_size_key(self.metadata))
        if declared is not None:
            return int(declared)
        if TOKENS in self.metadata:
            return len(self.metadata[TOKENS])
        if EMBEDDING in self.tensors:
            return self.tensors.info(EMBEDDING).shape[0]
        return None

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors' data."""
        return sum(self.tensors.info(name).nbytes for name in self.tensors)

    def __repr__(self) -> str:
        return (
            f"GGUFModelFile({str(self.path)!r}, architecture={self.architecture!r}, "
            f"tensors={len(self.tensors)}, shards={len(self.paths)})"
        )


def load_gguf(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
) -> GGUFModelFile:
    """Open a GGUF file, or all shards of a split one, without reading its weights.

    Args:
        path: the file; of a split model, any shard.
        device: where tensors go when they are asked for. On ``"cpu"`` they view the mapped file,
            which lives as long as one of them does; writing to one never reaches the file.
        dtype: the dtype that floating-point tensors are cast to and that quantized ones compute in;
            by default plain tensors keep theirs and quantized ones say float32.

    Raises:
        GGUFError: the file is no valid GGUF, or a shard is missing or contradicts the others.
        OSError: the file cannot be opened.
        ValueError: ``dtype`` is no floating-point dtype.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
    path = Path(path)
    opened = _open(path)
    paths = shard_paths(path, opened.header)
    shards = [opened if shard == path else _open(shard) for shard in paths]
    return GGUFModelFile(path, paths, shards, torch.device(device), dtype)


def open_buffer(buffer: Buffer, source: str) -> Shard:
    """Parse and check the bytes of one GGUF file.

    Raises:
        GGUFError: they are no valid GGUF.
    """
    COUNTERS["header_parses"] += 1
    header = read_header(buffer, source)
    check_metadata(header)
    return Shard(header, buffer)


def _open(path: Path) -> Shard:
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
        raise GGUFError("is no regular file", source=str(path), subject="header", offset=0)
    with path.open("rb") as file:
        COUNTERS["opens"] += 1
        if os.fstat(file.fileno()).st_size == 0:
            raise GGUFError("the file is empty", source=str(path), subject="header", offset=0)
        return open_buffer(_map(file.fileno()), str(path))


def _map(fileno: int) -> mmap.mmap:
    """The file's pages, copied when written to."""
    if sys.platform == "win32":
        return mmap.mmap(fileno, 0, access=mmap.ACCESS_COPY)
    flags = mmap.MAP_PRIVATE | _NORESERVE
    return mmap.mmap(fileno, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)


def _row_bytes(info: TensorInfo) -> int:
    return info.shape[-1] // info.qtype.block_size * info.qtype.block_bytes


def _to_native_order(data: torch.Tensor, header: Header, info: TensorInfo) -> torch.Tensor:
    if info.qtype.wide_fields is None:
        raise GGUFError(
            f"{info.qtype.name} has no defined big-endian layout; "
            "convert the model to a little-endian file",
            source=header.source,
            subject=f"tensor {quote(info.name)}",
            offset=info.entry,
        )
    return torch.from_numpy(swap_bytes(data.numpy(), info.qtype))
