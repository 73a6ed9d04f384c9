"""Tensors as the emulator's buffers, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tools.amd.emulator import Input, Output, poisoned
from tools.amd.emulator.messages import Buffer

# One per generation that the emulator knows: RDNA3, RDNA4, CDNA3.
ARCHS = ("gfx1100", "gfx1201", "gfx942")
# rocmforge::gpu::DType
DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


def bits(tensor: torch.Tensor) -> NDArray[Any]:
    """A tensor's memory, bfloat16 as 16-bit integers."""
    tensor = tensor.detach().contiguous()
    return (tensor.view(torch.int16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def from_bits(array: NDArray[Any], dtype: torch.dtype) -> torch.Tensor:
    """The tensor whose memory `bits` gave."""
    tensor = torch.from_numpy(np.array(array))
    return tensor.view(dtype) if dtype == torch.bfloat16 else tensor


def give(tensor: torch.Tensor | None, offset: int = 0) -> Buffer | None:
    """An input; offset: elements past an aligned address."""
    if tensor is None:
        return None
    return Input(bits(tensor), offset * tensor.element_size())


def take(shape: tuple[int, ...], dtype: torch.dtype, offset: int = 0) -> Buffer:
    """A poisoned output."""
    size = torch.empty((), dtype=dtype).element_size()
    kind = bits(torch.empty(0, dtype=dtype)).dtype
    return Output(poisoned(shape, kind), offset * size)
