"""Models in several files, ``NAME-00001-of-0000N.gguf``, as llama.cpp's gguf-split writes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .errors import GGUFError, quote
from .reader import Header

SPLIT_NO = "split.no"
SPLIT_COUNT = "split.count"
SPLIT_TENSORS = "split.tensors.count"
SHARD_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)


def shard_paths(path: Path, header: Header) -> list[Path]:
    """The paths of all shards of the model that ``path`` is one of, in order.

    Raises:
        GGUFError: the file's name and its split keys disagree, or a shard does not exist.
    """
    count = header.metadata.get(SPLIT_COUNT, 1)
    name = SHARD_NAME.fullmatch(path.name)
    if count <= 1 and (name is None or int(name["count"]) <= 1):
        return [path]
    if SPLIT_COUNT not in header.metadata:
        raise GGUFError(
            f"is named as one of {int(name['count']) if name else 0} shards but has no key "
            f"{SPLIT_COUNT!r}",
            source=header.source,
            subject="header",
            offset=0,
        )
    number = header.metadata.get(SPLIT_NO)
    if number is None:
        raise header.error(
            SPLIT_COUNT, f"needs {SPLIT_NO!r} beside it", header.offsets[SPLIT_COUNT]
        )
    if name is None or (int(name["number"]), int(name["count"])) != (number + 1, count):
        raise header.error(
            SPLIT_NO,
            f"shard {number} of {count} must be in a file named "
            f"*-{number + 1:05d}-of-{count:05d}.gguf, not {quote(path.name)}",
        )
    paths = [
        path.with_name(f"{name['stem']}-{n + 1:05d}-of-{count:05d}.gguf") for n in range(count)
    ]
    for shard in paths:
        if not shard.exists():
            raise header.error(SPLIT_COUNT, f"shard {quote(shard.name)} of {count} is missing")
    return paths


def merge_metadata(headers: Sequence[Header]) -> dict[str, Any]:
    """The metadata of all shards as one; the first shard's comes first.

    Raises:
        GGUFError: shards contradict each other, are in the wrong order, hold a tensor twice, or do
            not hold as many tensors as ``split.tensors.count`` says.
    """
    merged = dict(headers[0].metadata)
    names: set[str] = set()
    for index, header in enumerate(headers):
        if len(headers) > 1:
            _check_shard(header, index, len(headers))
        for key, value in header.metadata.items():
            if key not in (SPLIT_NO, "general.alignment") and not _same(
                merged.setdefault(key, value), value
            ):
                raise header.error(key, f"differs from its value in {headers[0].source}")
        for name, info in header.tensors.items():
            if name in names:
                raise GGUFError(
                    "is in another shard already",
                    source=header.source,
                    subject=f"tensor {quote(name)}",
                    offset=info.entry,
                )
            names.add(name)
    expected = merged.get(SPLIT_TENSORS)
    if expected is not None and expected != len(names):
        raise headers[0].error(
            SPLIT_TENSORS, f"says {expected} tensors, but {len(headers)} shard(s) hold {len(names)}"
        )
    return merged


def _check_shard(header: Header, index: int, count: int) -> None:
    found = (header.metadata.get(SPLIT_NO), header.metadata.get(SPLIT_COUNT))
    if found != (index, count):
        raise header.error(
            SPLIT_NO,
            f"expected shard {index} of {count}, the file says {found[0]} of {found[1]}",
            header.offsets.get(SPLIT_NO, 0),
        )


def _same(first: Any, second: Any) -> bool:
    if first is second:
        return True
    if isinstance(first, np.ndarray) and isinstance(second, np.ndarray):
        return first.dtype == second.dtype and np.array_equal(first, second)
    if isinstance(first, tuple) and isinstance(second, tuple):
        return len(first) == len(second) and all(map(_same, first, second))
    return type(first) is type(second) and bool(first == second)
