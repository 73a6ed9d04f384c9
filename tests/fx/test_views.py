"""Views that cancel."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx

from rocmforge_torch.fx import annotate, cancel_views

GONE: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.view(4, 6),
    lambda x: x.reshape(24).view(4, 6),
    lambda x: x.t().t(),
    lambda x: x.transpose(0, 1).permute(1, 0),
    lambda x: x.contiguous(),
    lambda x: x.float(),
    lambda x: x[:, 0:6],
    lambda x: x.unsqueeze(0).squeeze(0),
    lambda x: x.expand(4, 6),
    lambda x: torch.nn.functional.dropout(x, 0.5, False),
]
KEPT: list[Callable[[Tensor], Tensor]] = [
    lambda x: x.view(6, 4),
    lambda x: x.t(),
    lambda x: x.t().contiguous().t(),
    lambda x: x.double().float(),
    lambda x: x.clone(),
    lambda x: x[:, 1:5],
]


def steps_left(function: Callable[[Tensor], Tensor]) -> int:
    gm = fx.symbolic_trace(lambda x: function(x) + 1)
    annotate(gm, [torch.rand(4, 6)])
    cancel_views(gm)
    gm.graph.eliminate_dead_code()
    return len(gm.graph.nodes) - 3  # placeholder, sum, output


@pytest.mark.parametrize("function", GONE)
def test_goes(function: Callable[[Tensor], Tensor]) -> None:
    assert steps_left(function) == 0


@pytest.mark.parametrize("function", KEPT)
def test_stays(function: Callable[[Tensor], Tensor]) -> None:
    assert steps_left(function) > 0
