"""Small files with a tensor of every type."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from rocmforge_torch.quant_types import QUANT_TYPES, QUANT_TYPES_BY_NAME
from tools.gguf_bytes import File, Tensor


def write_gguf(path: Path, order: str = "<") -> None:
    """A matrix of every quantized type that has a layout in this order, an embedding table of the
    first, numbers of several types and a row of odd length."""
    rng = np.random.default_rng(1)
    entries, data = [], b""
    kinds = [
        row
        for row in QUANT_TYPES.values()
        if row.is_quantized and (order == "<" or row.wide_fields is not None)
    ]
    for name, kind in [("token_embd.weight", kinds[0])] + [(row.name, row) for row in kinds]:
        data += bytes(-len(data) % 32)
        entries.append(Tensor(name, [2 * kind.block_size, 5], kind.id, len(data)))
        data += rng.integers(0, 256, 10 * kind.block_bytes, dtype=np.uint8).tobytes()
    for name in ("F32", "F16", "BF16", "I8", "I64"):
        kind = QUANT_TYPES_BY_NAME[name]
        data += bytes(-len(data) % 32)
        entries.append(Tensor(name, [7, 3], kind.id, len(data)))
        data += rng.integers(0, 60, 21 * kind.block_bytes, dtype=np.uint8).tobytes()
    path.write_bytes(File([], entries, data, order=order).pack())
