"""Tensor data of big-endian files, in the order this machine computes in."""

from __future__ import annotations

import sys

import numpy as np
import numpy.typing as npt

from ..quant_types import QuantType
from .errors import GGUFError, quote
from .reader import Header, TensorInfo

NATIVE_ORDER = "<" if sys.byteorder == "little" else ">"


def is_swapped(header: Header) -> bool:
    """Whether the file's byte order is not this machine's."""
    return header.order != NATIVE_ORDER


def check_order(header: Header, info: TensorInfo) -> None:
    """Refuse a tensor of a swapped file whose type has no layout there.

    Raises:
        GGUFError: naming the tensor.
    """
    if is_swapped(header) and info.qtype.wide_fields is None:
        raise GGUFError(
            f"{info.qtype.name} has no defined big-endian layout; "
            "convert the model to a little-endian file",
            source=header.source,
            subject=f"tensor {quote(info.name)}",
            offset=info.entry,
        )


def swap_bytes_(data: npt.NDArray[np.uint8], qtype: QuantType) -> None:
    """Reverse every multi-byte number in some blocks, in place.

    Args:
        data: uint8 [blocks * block_bytes], contiguous.
        qtype: the type, whose ``wide_fields`` must be known.
    """
    blocks = data.reshape(-1, qtype.block_bytes)
    for offset, size, count in qtype.wide_fields or ():
        field = blocks[:, offset : offset + size * count]
        field[:] = field.reshape(-1, count, size)[..., ::-1].reshape(field.shape)
