"""Tensor data of big-endian files, in the order this machine computes in."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..quant_types import QuantType


def swap_bytes(data: npt.NDArray[np.uint8], qtype: QuantType) -> npt.NDArray[np.uint8]:
    """A copy of ``data`` with every multi-byte number in its blocks reversed.

    Args:
        data: uint8 [blocks * block_bytes].
        qtype: the type, whose ``wide_fields`` must be known.
    """
    swapped: npt.NDArray[np.uint8] = data.copy()
    blocks = swapped.reshape(-1, qtype.block_bytes)
    for offset, size, count in qtype.wide_fields or ():
        field = blocks[:, offset : offset + size * count]
        field[:] = field.reshape(-1, count, size)[..., ::-1].reshape(field.shape)
    return swapped
