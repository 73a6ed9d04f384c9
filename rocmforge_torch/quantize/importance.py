"""Importance matrices: how large the inputs of every matrix are, column by column.

A file holds, for each matrix, the mean square of each input over some text. An error in a weight
then costs its square times that number. Both of llama.cpp's formats are read: GGUF (which is also
written) and the older `.dat`.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..gguf import GGUFError, load_gguf, write_gguf
from ..gguf.lazy_tensor import LazyTensor
from ..gguf.reader import MAGIC

SUMS, COUNTS = ".in_sum2", ".counts"
DATASETS, CHUNK_COUNT, CHUNK_SIZE = (
    "imatrix.datasets",
    "imatrix.chunk_count",
    "imatrix.chunk_size",
)
MOST_NAME_BYTES = 1 << 16


@dataclass(frozen=True)
class Importance:
    """Importance of the columns of matrices.

    Attributes:
        means: GGUF name -> float32 [matrices, K], the mean square of each input; one matrix, or as
            many as there are experts.
        counts: GGUF name -> float32 [matrices], how many inputs there were.
        datasets: the texts, by the names they were given.
        chunks: windows of text.
        chunk_size: tokens in a window; 0 where the file does not say.
        path: the file; empty for one not written yet.
    """

    means: Mapping[str, Tensor]
    counts: Mapping[str, Tensor]
    datasets: tuple[str, ...] = ()
    chunks: int = 0
    chunk_size: int = 0
    path: str = field(default="", compare=False)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Importance:
        """Read a file of either format.

        Raises:
            GGUFError: it is neither, or contradicts itself.
            OSError: it cannot be opened.
        """
        with open(path, "rb") as file:
            is_gguf = file.read(len(MAGIC)) == MAGIC
        found = _read_gguf(Path(path)) if is_gguf else _read_legacy(Path(path))
        for name, means in found.means.items():
            if not means.isfinite().all() or (means < 0).any():
                raise GGUFError(
                    "importance must be finite and not negative", source=str(path), subject=name
                )
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a GGUF file, as llama.cpp's `llama-imatrix` does.

        Raises:
            OSError: `path` cannot be written.
        """
        metadata = {
            "general.type": "imatrix",
            DATASETS: list(self.datasets),
            CHUNK_COUNT: self.chunks,
            CHUNK_SIZE: self.chunk_size,
        }
        tensors = []
        for name in sorted(self.means):
            counts = self.counts[name].float()[:, None]
            tensors.append((f"{name}{SUMS}", self.means[name].float() * counts))
            tensors.append((f"{name}{COUNTS}", counts))
        write_gguf(path, metadata, tensors)

    def columns(self, tensor: LazyTensor) -> Tensor | None:
        """The importance of a tensor's columns, float32 [matrices, K]; None if it is not known."""
        return self.means.get(tensor.name)

    def check(self, tensors: Iterable[LazyTensor]) -> None:
        """Refuse importance that is not of these tensors.

        Raises:
            ValueError: none of them is named, or one has another shape.
        """
        known = False
        for tensor in tensors:
            columns = self.columns(tensor)
            if columns is None:
                continue
            known = True
            matrices = tensor.shape[0] if len(tensor.shape) == 3 else 1
            if columns.shape[1] != tensor.shape[-1] or columns.shape[0] not in (1, matrices):
                raise ValueError(
                    f"{self.path}: importance of {tensor.name!r} is for {list(columns.shape)} "
                    f"columns, but the tensor has {list(tensor.shape)}: it is of another model"
                )
        if not known:
            raise ValueError(f"{self.path}: importance of no tensor of this model")

    def provenance(self) -> dict[str, Any]:
        """The keys by which llama.cpp says in a model what importance it was quantized with."""
        keys: dict[str, Any] = {
            "quantize.imatrix.file": self.path,
            "quantize.imatrix.dataset": next(iter(self.datasets), ""),
            "quantize.imatrix.entries_count": len(self.means),
            "quantize.imatrix.chunks_count": self.chunks,
        }
        return {key: value for key, value in keys.items() if value != ""}


def _mean(sums: Tensor, counts: Tensor) -> Tensor:
    """sums [matrices, K] over counts [matrices]; 1 for a matrix that never had an input."""
    counts = counts[:, None]
    return torch.where(counts > 0, sums / counts, 1.0)


def _read_gguf(path: Path) -> Importance:
    file = load_gguf(path)
    means, counts = {}, {}
    for name in file.tensors:
        if not name.endswith(SUMS):
            continue
        of = name.removesuffix(SUMS)
        if f"{of}{COUNTS}" not in file.tensors:
            raise GGUFError(f"has no {COUNTS} beside it", source=str(path), subject=name)
        sums, count = (file.tensors[f"{of}{end}"].float() for end in (SUMS, COUNTS))
        sums, count = sums.reshape(-1, sums.shape[-1]), count.reshape(-1)
        if len(count) != len(sums):
            raise GGUFError(
                f"has {len(sums)} matrices, but {len(count)} counts", source=str(path), subject=name
            )
        means[of], counts[of] = _mean(sums, count), count.clone()
    if not means:
        raise GGUFError(
            f"holds no importance (tensors named *{SUMS})", source=str(path), subject="file"
        )
    return Importance(
        means,
        counts,
        tuple(file.metadata.get(DATASETS, ())),
        int(file.metadata.get(CHUNK_COUNT, 0)),
        int(file.metadata.get(CHUNK_SIZE, 0)),
        str(path),
    )


def _read_legacy(path: Path) -> Importance:
    """int32 count of entries; of each: name, calls and values; then chunks and the text's name."""
    data, at = path.read_bytes(), 0

    def take(size: int, what: str) -> bytes:
        nonlocal at
        if not 0 <= size <= len(data) - at:
            problem = f"{what} would end past the file's {len(data)} bytes; no importance matrix"
            raise GGUFError(problem, source=str(path), subject="file", offset=at)
        at += size
        return data[at - size : at]

    def number(what: str) -> int:
        return int(struct.unpack("<i", take(4, what))[0])

    def text(what: str) -> str:
        return take(number(f"the length of {what}"), what).decode("utf-8", "replace")

    means, counts = {}, {}
    entries = number("the number of entries")
    for index in range(entries):
        name = text(f"the name of entry {index}")
        calls, size = number(f"the calls of {name!r}"), number(f"the size of {name!r}")
        values = take(4 * size, f"the values of {name!r}")
        found = torch.frombuffer(bytearray(values), dtype=torch.float32)[None]
        counts[name] = torch.tensor([float(calls)])
        means[name] = found / max(calls, 1)
    if not means:
        raise GGUFError("holds no importance", source=str(path), subject="file", offset=0)
    chunks = 0
    datasets: tuple[str, ...] = ()
    if at < len(data):
        chunks, datasets = number("the number of chunks"), (text("the text's name"),)
    return Importance(means, counts, datasets, chunks, path=str(path))
