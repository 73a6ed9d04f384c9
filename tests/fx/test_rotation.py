"""Rotations that models write out, and what looks like one but is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn

from rocmforge_torch.fx import optimize

rope = torch.ops.rocmforge.rope.default
HEADS, TOKENS, SIZE = 3, 5, 16


def rotate_half(x: Tensor) -> Tensor:
    low, high = x[..., : SIZE // 2], x[..., SIZE // 2 :]
    return torch.cat((-high, low), dim=-1)


def interchanged(x: Tensor) -> Tensor:
    low, high = x[..., : SIZE // 2], x[..., SIZE // 2 :]
    return torch.cat((high, -low), dim=-1)


class Rotated(nn.Module):
    """Heads [B, H, T, D] of x [B, T, H, D], turned as Hugging Face's models turn them.

    `after` is called with positions and cosines in between.
    """

    def __init__(
        self,
        scale: float = 1.0,
        half: Callable[[Tensor], Tensor] = rotate_half,
        after: Callable[[Tensor, Tensor], object] = lambda positions, cos: None,
    ) -> None:
        super().__init__()
        self.register_buffer("inv_freq", 10.0 ** -torch.linspace(0, 2, SIZE // 2))
        self.scale, self.half, self.after = scale, half, after

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        x = x.transpose(1, 2)
        angles = positions[..., None].float() * self.inv_freq
        both = torch.cat((angles, angles), dim=-1)
        cos, sin = both.cos() * self.scale, both.sin() * self.scale
        cos, sin = cos.to(x.dtype).unsqueeze(1), sin.to(x.dtype).unsqueeze(1)
        self.after(positions, cos)
        return (x * cos) + (self.half(x) * sin)


def traced(module: nn.Module, x: Tensor, positions: Tensor) -> tuple[fx.GraphModule, int]:
    """The optimised graph, and how many rotations are in it."""
    from torch.fx.experimental.proxy_tensor import make_fx

    graph = make_fx(module)(x, positions.clone())
    found = optimize(graph, [x, positions])
    return found, len(found.graph.find_nodes(op="call_function", target=rope))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("scale", [1.0, 0.75])
def test_a_rotation(dtype: torch.dtype, batch: int, shared: bool, scale: float) -> None:
    x = torch.randn(batch, TOKENS, HEADS, SIZE).to(dtype)
    positions = torch.randint(100, (1 if shared else batch, TOKENS))
    module = Rotated(scale)
    graph, rotations = traced(module, x, positions)
    assert rotations == 1
    got, want = graph(x, positions), module(x.float(), positions)
    assert got.stride() == module(x, positions).stride()
    tolerance = 1e-5 if dtype == torch.float32 else 1e-2
    torch.testing.assert_close(got.float(), want, rtol=tolerance, atol=tolerance)


def test_one_token_of_one_head() -> None:
    """Where views of it are the tensor itself."""
    x, positions = torch.randn(2, 1, 1, SIZE), torch.tensor([[4], [9]])
    graph, rotations = traced(Rotated(), x, positions)
    assert rotations == 1
    assert not graph.graph.find_nodes(op="call_function", target=torch.ops.aten.transpose.int)
    torch.testing.assert_close(graph(x, positions), Rotated()(x, positions))


@pytest.mark.parametrize(
    "module",
    [
        Rotated(half=interchanged),
        Rotated(half=lambda x: x.flip(-1)),
        Rotated(after=lambda positions, cos: cos.mul_(2)),
    ],
    ids=["the other way", "other pairs", "cosines that are written to"],
)
def test_what_is_none(module: nn.Module) -> None:
    x, positions = torch.randn(2, TOKENS, HEADS, SIZE), torch.arange(TOKENS)[None]
    graph, rotations = traced(module, x, positions)
    assert rotations == 0
    torch.testing.assert_close(graph(x, positions), module(x, positions))


def test_a_dtype_that_the_op_has_not() -> None:
    x, positions = torch.randn(1, TOKENS, HEADS, SIZE).double(), torch.arange(TOKENS)[None]
    graph, rotations = traced(Rotated(), x, positions)
    assert rotations == 0
    assert torch.equal(graph(x, positions), Rotated()(x, positions))


def test_positions_that_move_on() -> None:
    """What is written to after the angles were computed is read as it was then."""
    x, positions = torch.randn(1, TOKENS, HEADS, SIZE), torch.arange(TOKENS)[None]
    module = Rotated(after=lambda positions, cos: positions.add_(7))
    want, moved = module(x, positions.clone()), positions.clone()
    graph, rotations = traced(module, x, positions)
    assert rotations == 1
    torch.testing.assert_close(graph(x, moved), want)
    assert torch.equal(moved, positions + 7)
