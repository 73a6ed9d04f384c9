"""What the counted products multiply: random weights, and activations rounded to 8 bits."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from rocmforge_torch.ops.reference import pack_weight
from rocmforge_torch.quant_types import QuantType

from .emulator import Input
from .emulator.messages import Buffer

FLOAT32 = 0  # DType
PACKED = 1  # layout
Field = tuple[str, Buffer | int]


def random_weights(qtype: QuantType, rows: int, cols: int) -> torch.Tensor:
    """Weights [rows, row bytes] of random codes with equal scales."""
    rng = np.random.default_rng(qtype.id)
    blocks = rng.integers(0, 256, (rows * cols // qtype.block_size, qtype.block_bytes), np.uint8)
    for offset, item_bytes, count in qtype.wide_fields or ():
        scales = np.full(item_bytes * count // 2, 0.01, np.float16).view(np.uint8)
        blocks[:, offset : offset + len(scales)] = scales
    return torch.from_numpy(blocks).view(rows, -1)


def packed_matrix(qtype: QuantType, qweight: torch.Tensor) -> list[Field]:
    """The fields of a QuantMatrix whose weights are packed; its buffer is the first of a call."""
    rows, row_bytes = qweight.shape
    return [
        ("c_int", qtype.id),
        ("c_int", PACKED),
        ("c_void_p", Input(pack_weight(qweight, qtype.id).numpy())),
        ("c_int64", rows),
        ("c_int64", row_bytes // qtype.block_bytes * qtype.block_size),
        ("c_int64", row_bytes),
    ]


def random_activations(rows: int, cols: int) -> torch.Tensor:
    """x [rows, cols]."""
    return torch.from_numpy(np.random.default_rng(rows).standard_normal((rows, cols), np.float32))


def rounded(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [blocks, 32] and scales [blocks, 1] of x, rounded to 8 bits."""
    blocks = x.view(-1, 32)
    scales = blocks.abs().amax(1, keepdim=True) / 127
    return torch.round(blocks / scales), scales


def q8_1(codes: torch.Tensor, scales: torch.Tensor) -> NDArray[np.uint8]:
    """ggml's blocks: scale and sum of the values in float16, then 32 codes."""
    head = torch.cat([scales, codes.sum(1, keepdim=True) * scales], dim=1).half()
    parts = [head.view(torch.uint8), codes.to(torch.int8).view(torch.uint8)]
    return torch.cat(parts, dim=1).numpy()
