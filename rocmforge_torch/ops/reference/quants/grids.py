"""The code books as tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from . import codebooks
from .codebooks import Grid


def _expand(grid: Grid) -> Tensor:
    """The code book as float32 ``[rows, width]``."""
    digits = -(-grid.width * grid.bits // 4)
    rows = [int(grid.rows[i : i + digits], 16) for i in range(0, len(grid.rows), digits)]
    mask = (1 << grid.bits) - 1
    values = [
        [grid.levels[row >> (grid.bits * i) & mask] for i in range(grid.width)] for row in rows
    ]
    return torch.tensor(values, dtype=torch.float32, device="cpu")


IQ1S = _expand(codebooks.IQ1S_GRID)
IQ2XXS = _expand(codebooks.IQ2XXS_GRID)
IQ2XS = _expand(codebooks.IQ2XS_GRID)
IQ2S = _expand(codebooks.IQ2S_GRID)
IQ3XXS = _expand(codebooks.IQ3XXS_GRID)
IQ3S = _expand(codebooks.IQ3S_GRID)
KSIGNS = torch.tensor(list(codebooks.KSIGNS), dtype=torch.uint8, device="cpu")
KVALUES_IQ4NL = torch.tensor(codebooks.KVALUES_IQ4NL, dtype=torch.float32, device="cpu")
IQ4NL_MIDDLES = (KVALUES_IQ4NL[:-1] + KVALUES_IQ4NL[1:]) / 2
KVALUES_E2M1 = torch.tensor(codebooks.KVALUES_E2M1, dtype=torch.float32, device="cpu")


def look_up(grid: Tensor, index: Tensor) -> Tensor:
    """Rows of `grid` at integers ``[...]``, on the integers' device: ``[..., width]``."""
    return grid.to(index.device)[index.long()]
