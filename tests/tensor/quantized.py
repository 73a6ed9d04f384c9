"""Random `GGUFTensor`s, and the numbers that they stand for by gguf-py."""

from __future__ import annotations

import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from torch import Tensor

from rocmforge_torch import GGUFTensor
from rocmforge_torch.quant_types import quant_type

ROWS, COLS = 6, 512


def quantized(name: str = "Q8_0", *shape: int, dtype: torch.dtype = torch.float32) -> GGUFTensor:
    values = np.random.default_rng(7).standard_normal(shape or (ROWS, COLS), np.float32)
    if name == "IQ4_NL":  # gguf-py has no quantizer for it; any codes with a sane scale do
        blocks = np.random.default_rng(8).integers(0, 256, (ROWS, COLS // 32 * 18), np.uint8)
        blocks.reshape(-1, 18)[:, :2] = np.array([0.01], np.float16).view(np.uint8)
    else:
        blocks = quants.quantize(values, GGMLQuantizationType[name])
    return GGUFTensor(torch.from_numpy(blocks), quant_type(name).id, dtype)


def numbers(weight: GGUFTensor) -> Tensor:
    """The matrix by gguf-py."""
    return torch.from_numpy(
        quants.dequantize(weight.qweight.numpy(), GGMLQuantizationType(weight.qtype))
    )
