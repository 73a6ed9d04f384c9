"""The metadata of a file with the number types it is stored in, to write it again as it was."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from .model_file import GGUFModelFile
from .reader import Header
from .splits import SPLIT_COUNT, SPLIT_NO, SPLIT_TENSORS
from .values import NUMBERS


def typed_metadata(file: GGUFModelFile) -> dict[str, Any]:
    """As `file.metadata`, with single numbers as numpy scalars of the file's own type.

    Keys of a split file that speak of its shards are left out.

    Raises:
        OSError: the file is gone.
    """
    found: dict[str, Any] = {}
    for header in file.headers:
        with open(header.source, "rb") as source:
            for key, value in header.metadata.items():
                source.seek(header.offsets[key] - 4)
                found.setdefault(key, _typed(header, value, source.read(4)))
    return {key: found[key] for key in found if key not in (SPLIT_NO, SPLIT_COUNT, SPLIT_TENSORS)}


def _typed(header: Header, value: Any, value_type: bytes) -> Any:
    name, _ = NUMBERS.get(struct.unpack(f"{header.order}I", value_type)[0], (None, ""))
    return value if name is None else np.dtype(name).type(value)
