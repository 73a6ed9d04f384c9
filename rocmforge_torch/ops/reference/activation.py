"""Gated activations: the middle of SwiGLU and GeGLU feed-forward layers (Shazeer, 2020)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def silu_mul(gate: Tensor, up: Tensor) -> Tensor:
    y = F.silu(gate.float()) * up.float()
    return y.to(gate.dtype, memory_format=torch.contiguous_format)


def gelu_mul(gate: Tensor, up: Tensor) -> Tensor:
    y = F.gelu(gate.float(), approximate="tanh") * up.float()
    return y.to(gate.dtype, memory_format=torch.contiguous_format)
