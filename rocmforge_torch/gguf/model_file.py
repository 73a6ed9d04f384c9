"""`load_gguf`: a GGUF file as metadata and tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from .. import extension
from .checks import ARCHITECTURE, TOKENS, vocab_size_key
from .hub import local_path
from .shard import Shard, open_shard
from .splits import merge_metadata, shard_paths
from .tensor_map import TensorMap

EMBEDDING = "token_embd.weight"


class GGUFModelFile:
    """A loaded GGUF model, from one file or from several shards.

    Attributes:
        paths: the files, in order; `path` is the one asked for.
        metadata: key -> ``bool | int | float | str``, a read-only numpy array, a sequence of
            strings that are decoded on access, or a tuple of arrays.
        tensors: name -> ``torch.Tensor`` for plain types, :class:`GGUFTensor` for quantized ones;
            shapes are torch's, slowest dimension first. On the CPU they are the mapped file itself;
            on a GPU they have been loaded, and stay until `tensors.release()`.
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
    *,
    packed: bool = False,
    progress: bool | None = None,
    only: Callable[[str], bool] | None = None,
) -> GGUFModelFile:
    """Open a GGUF file, or all shards of a split one.

    On the CPU no weight is read: tensors view the mapped file, which lives as long as one of them
    does; writing to one never reaches the file. On a GPU all tensors are loaded now, and can be
    used at once on its current stream.

    Args:
        path: the file; of a split model, any shard. Or a model on the Hugging Face hub, as
            "user/repo:Q4_K_M" (the type is Q4_K_M if none is named).
        device: where tensors are.
        dtype: the dtype that floating-point tensors are cast to and that quantized ones compute in;
            by default plain tensors keep theirs and quantized ones say float32.
        packed: on a GPU, quantized matrices get the layout that its products are fastest in
            (`GGUFTensor.qlayout` 1), except embedding tables.
        progress: whether to show a bar of bytes and rate; by default on a terminal only.
        only: on a GPU, the names of the tensors to load now; others are loaded when they are asked
            for. By default all.

    Raises:
        GGUFError: the file is no valid GGUF, or a shard is missing or contradicts the others.
        OSError: the file cannot be opened, or not be fetched.
        RuntimeError: there is no such GPU, it has no room (torch.OutOfMemoryError), or the library
            no code for it.
        ValueError: ``dtype`` is no floating-point dtype.
    """
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point dtype, got {dtype}")
    path = local_path(path)
    opened = open_shard(path)
    paths = shard_paths(path, opened.header)
    shards = [opened if shard == path else open_shard(shard) for shard in paths]
    device = extension.check_device(torch.device(device))
    file = GGUFModelFile(path, paths, shards, device, dtype)
    if device.type == "cuda":
        file.tensors.load(packed, progress, only)
    return file
