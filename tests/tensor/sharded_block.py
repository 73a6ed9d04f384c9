"""The module that tests of several processes train."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.tensor.quantized import quantized

WIDTH, HIDDEN = 64, 96


class Block(nn.Module):
    """Frozen weights of two types, and a layer to train."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up = nn.Linear(WIDTH, HIDDEN)
        self.side = nn.Linear(WIDTH, HIDDEN)
        self.down = nn.Linear(HIDDEN, WIDTH, bias=False)
        self.up.weight = nn.Parameter(quantized("Q8_0", HIDDEN, WIDTH), requires_grad=False)
        self.down.weight = nn.Parameter(quantized("Q4_0", WIDTH, HIDDEN), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down((self.up(x) + self.side(x)).relu())
