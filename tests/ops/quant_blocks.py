"""Random blocks of every quantization type, ordinary and extreme."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rocmforge_torch.quant_types import QUANT_TYPES, QuantType

Bytes = npt.NDArray[np.uint8]

# Zeros, subnormals, the largest numbers, infinities and NaNs of float16.
HALVES = [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x83FF, 0x0400, 0x3C00]
HALVES += [0x7BFF, 0xFBFF, 0x7C00, 0xFC00, 0x7C01, 0x7E00, 0xFE01, 0xFFFF]
FLOATS = [0x00000000, 0x80000000, 0x00000001, 0x007FFFFF, 0x00800000, 0x7F7FFFFF]
FLOATS += [0x7F800000, 0xFF800000, 0x7F800001, 0x7FC00000, 0xFFC12345, 0x3F800000]
# Where each type keeps its float16 scales: (offset, count); the types that are not here have none.
HALF_SCALES = {
    "Q4_0": (0, 1),
    "Q4_1": (0, 2),
    "Q5_0": (0, 1),
    "Q5_1": (0, 2),
    "Q8_0": (0, 1),
    "Q8_1": (0, 2),
    "Q2_K": (80, 2),
    "Q3_K": (108, 1),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208, 1),
    "IQ1_S": (0, 1),
    "IQ2_XXS": (0, 1),
    "IQ2_XS": (0, 1),
    "IQ2_S": (0, 1),
    "IQ3_XXS": (0, 1),
    "IQ3_S": (0, 1),
    "IQ4_NL": (0, 1),
    "IQ4_XS": (0, 1),
    "TQ1_0": (52, 1),
    "TQ2_0": (64, 1),
    "Q1_0": (0, 1),
    "F16": (0, 1),
    "BF16": (0, 1),
}


def random_blocks(row: QuantType, count: int, seed: int = 0, largest: float = 2) -> Bytes:
    """`count` blocks of random bytes with ordinary scales, none above `largest` in size."""
    rng = np.random.default_rng([seed, row.id])
    blocks = rng.integers(0, 256, (count, row.block_bytes), dtype=np.uint8)
    scales = rng.uniform(-largest, largest, (count, 2)).astype(np.float32)
    if row.name in HALF_SCALES:
        offset, halves = HALF_SCALES[row.name]
        _write(blocks, offset, scales[:, :halves].astype(np.float16))
    elif row.name in ("F32", "Q8_K"):
        _write(blocks, 0, scales[:, :1])
    elif row.name == "IQ1_M":
        _write_iq1_m(blocks, scales[:, 0].astype(np.float16).view(np.uint16))
    elif row.name == "MXFP4":
        blocks[:, 0] = rng.integers(100, 140, count)
    return blocks


def extreme_blocks(row: QuantType, seed: int = 1) -> Bytes:
    """Blocks of random bytes under every special scale, and every byte that a scale byte can be."""
    rng = np.random.default_rng([seed, row.id])
    patterns = np.array(HALVES, dtype=np.uint16)
    pairs = np.stack(np.meshgrid(patterns, patterns), axis=-1).reshape(-1, 2)
    blocks = rng.integers(0, 256, (len(pairs), row.block_bytes), dtype=np.uint8)
    if row.name in HALF_SCALES:
        offset, halves = HALF_SCALES[row.name]
        _write(blocks, offset, pairs[:, :halves])
    elif row.name in ("F32", "Q8_K"):
        _write(blocks, 0, rng.choice(np.array(FLOATS, dtype=np.uint32), (len(pairs), 1)))
    elif row.name == "IQ1_M":
        _write_iq1_m(blocks, pairs[:, 0])
    elif row.name in ("MXFP4", "NVFP4"):
        blocks[:, 0] = np.arange(256)
    return blocks


def as_rows(row: QuantType, blocks: Bytes, rows: int) -> Bytes:
    """The blocks as a weight of `rows` rows."""
    return blocks[: len(blocks) // rows * rows].reshape(rows, -1)


def named(name: str) -> QuantType:
    return next(row for row in QUANT_TYPES.values() if row.name == name)


def _write(blocks: Bytes, offset: int, numbers: npt.NDArray) -> None:
    data = np.ascontiguousarray(numbers).view(np.uint8)
    blocks[:, offset : offset + data.shape[1]] = data


def _write_iq1_m(blocks: Bytes, scale: npt.NDArray[np.uint16]) -> None:
    words = blocks[:, 48:].copy().view(np.uint16)
    nibbles = scale[:, None] >> np.array([0, 4, 8, 12], dtype=np.uint16) & np.uint16(15)
    _write(blocks, 48, (words & np.uint16(0x0FFF)) | (nibbles << np.uint16(12)))
