"""GGUF files as safetensors files and back: every tensor, key, type and their order."""

from __future__ import annotations

import os
from pathlib import Path

from ..gguf import load_gguf, typed_metadata, write_gguf
from .load import load_gguf_metadata, load_safetensors
from .save import save_safetensors


def gguf_to_safetensors(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    max_shard_bytes: int | None = None,
) -> list[Path]:
    """Write the tensors and metadata of a GGUF file, which may be split, as safetensors.

    Bytes go from one mapped file to the other: no tensor is held in memory.

    Args:
        source: the GGUF file; of a split model, any shard.
        target, max_shard_bytes: as of `save_safetensors`.

    Returns:
        The files that hold tensors.

    Raises:
        GGUFError: the source is no valid GGUF.
        ValueError, OSError: as `save_safetensors`.
    """
    file = load_gguf(source)
    return save_safetensors(
        target, file.tensors, typed_metadata(file), max_shard_bytes=max_shard_bytes
    )


def safetensors_to_gguf(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """The inverse of `gguf_to_safetensors`.

    Empty arrays of metadata are left out, as `write_gguf` says.

    Args:
        source: the file or index that `gguf_to_safetensors` wrote.
        target: the GGUF file to write; an existing one is replaced.

    Raises:
        ValueError: the source has no GGUF metadata, or a dtype that GGUF has not; or as
            `load_safetensors`.
        OSError: a file cannot be opened or written.
    """
    metadata = load_gguf_metadata(source)
    if metadata is None:
        raise ValueError(f"{source}: the header holds no GGUF metadata to make a GGUF file with")
    write_gguf(target, metadata, load_safetensors(source).items())
