"""What follows from parameters alone is computed once by compiled code."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from rocmforge_torch.fx.backend import rocmforge

pytestmark = pytest.mark.usefixtures("fresh_dynamo")


class Shifted(nn.Module):
    """x times 1 + w, plus a buffer that counts calls."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(8), requires_grad=False)
        self.register_buffer("count", torch.zeros(8))

    def forward(self, x: Tensor) -> Tensor:
        return x * (1.0 + self.weight.float()) + (self.count + 0.5)


def compiled(module: nn.Module) -> Any:
    return torch.compile(module, backend=rocmforge, fullgraph=True, options={"inductor": False})


@torch.no_grad()
def test_it_follows_what_is_written() -> None:
    """To the parameter, in its place, and to a buffer, which is never folded."""
    module, x = Shifted(), torch.randn(3, 8)
    step = compiled(module)
    for change in (
        lambda: None,
        lambda: module.weight.mul_(2),
        lambda: module.load_state_dict(Shifted().state_dict()),
        lambda: setattr(module.weight, "data", torch.ones(8)),
        lambda: module.count.add_(1),
    ):
        change()
        for _ in range(2):
            torch.testing.assert_close(step(x), module(x))


def test_gradients_are_those_of_what_was_written() -> None:
    module, x = Shifted(), torch.randn(3, 8, requires_grad=True)
    module.weight.requires_grad_()
    compiled(module)(x).sum().backward()
    assert module.weight.grad is not None
    torch.testing.assert_close(module.weight.grad, x.detach().sum(0))


@torch.inference_mode()
def test_tensors_whose_writes_nobody_counts() -> None:
    module, x = Shifted(), torch.randn(3, 8)
    step = compiled(module)
    for _ in range(3):
        torch.testing.assert_close(step(x), module(x))
        module.weight.data.add_(1)
