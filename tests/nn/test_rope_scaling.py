"""Frequencies and factors of every scaling against transformers' formulas."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from rocmforge_torch.nn import RopeConfig, RotaryEmbedding
from rocmforge_torch.nn.rope import attention_scale, inverse_frequencies

DIM = 128


def theirs(**parameters: Any) -> tuple[torch.Tensor, float]:
    parameters = {"rope_theta": 10000.0, **parameters}
    config = LlamaConfig(
        hidden_size=DIM * 4,
        num_attention_heads=4,
        head_dim=DIM,
        max_position_embeddings=4096,
        rope_parameters=parameters,
    )
    return ROPE_INIT_FUNCTIONS[parameters["rope_type"]](config, torch.device("cpu"))


def test_none() -> None:
    want = 1 / 10000.0 ** (torch.arange(0, DIM, 2).double() / DIM)
    assert torch.equal(inverse_frequencies(RopeConfig(DIM)), want.float())
    assert attention_scale(RopeConfig(DIM)) == 1


def test_linear() -> None:
    want, scale = theirs(rope_type="linear", factor=8.0)
    config = RopeConfig(DIM, scaling="linear", factor=8.0)
    torch.testing.assert_close(inverse_frequencies(config), want, rtol=1e-6, atol=0)
    assert attention_scale(config) == scale == 1


def test_ntk_keeps_the_highest_and_divides_the_lowest_frequency() -> None:
    plain = inverse_frequencies(RopeConfig(DIM))
    ntk = inverse_frequencies(RopeConfig(DIM, scaling="ntk", factor=8.0))
    torch.testing.assert_close(ntk[0], plain[0])
    torch.testing.assert_close(ntk[-1], plain[-1] / 8)
    assert (ntk[1:] < plain[1:]).all()


@pytest.mark.parametrize("factor", [2.0, 4.0, 40.0])
@pytest.mark.parametrize("base", [10000.0, 1e6])
@pytest.mark.parametrize("original", [256, 4096])
def test_yarn(factor: float, base: float, original: int) -> None:
    want, scale = theirs(
        rope_type="yarn",
        rope_theta=base,
        factor=factor,
        original_max_position_embeddings=original,
    )
    config = RopeConfig(DIM, base, scaling="yarn", factor=factor, original_context=original)
    torch.testing.assert_close(inverse_frequencies(config), want, rtol=1e-5, atol=0)
    assert attention_scale(config) == pytest.approx(scale)


def test_factors_divide_frequencies() -> None:
    factors = torch.linspace(1, 8, DIM // 2)
    got = inverse_frequencies(RopeConfig(DIM), factors)
    torch.testing.assert_close(got, inverse_frequencies(RopeConfig(DIM)) / factors)


def test_the_context_chooses_between_short_and_long_factors() -> None:
    config = RopeConfig(DIM, scaling="longrope", original_context=100, attention_factor=1.25)
    short, long = torch.full((DIM // 2,), 2.0), torch.full((DIM // 2,), 4.0)
    rope = RotaryEmbedding(config, short, long)
    plain = inverse_frequencies(RopeConfig(DIM))
    torch.testing.assert_close(rope.frequencies(100), plain / 2)
    torch.testing.assert_close(rope.frequencies(101), plain / 4)
    assert rope.scale == 1.25
    assert not rope.state_dict(), "tables are made from the configuration, not stored"


@pytest.mark.parametrize("interleaved", [False, True])
def test_rotation_by_complex_numbers(interleaved: bool) -> None:
    """A pair (a, b) at position p becomes (a + ib) e^(i p f)."""
    config = RopeConfig(16, interleaved=interleaved, attention_factor=1.5)
    x = torch.randn(2, 5, 3, 24, dtype=torch.float64)
    positions = torch.tensor([0, 1, 7, 100, 3])
    got = RotaryEmbedding(config)(x.float(), positions, 101)
    head = x[..., :16]
    a, b = (head[..., ::2], head[..., 1::2]) if interleaved else head.chunk(2, -1)
    angle = positions[:, None] * inverse_frequencies(config).double()
    turned = torch.complex(a, b) * torch.polar(torch.full_like(angle, 1.5), angle)[:, None]
    parts = [turned.real, turned.imag]
    want = torch.stack(parts, -1).flatten(-2) if interleaved else torch.cat(parts, -1)
    torch.testing.assert_close(got[..., :16].double(), want, rtol=1e-4, atol=1e-4)
    assert torch.equal(got[..., 16:], x[..., 16:].float())
