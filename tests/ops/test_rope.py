from __future__ import annotations

import pytest
import torch
from op_samples.rope import frequencies
from transformers.models.glm.modeling_glm import apply_rotary_pos_emb as rotate_neighbours
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb as rotate_halves

from rocmforge_torch.ops import reference

ops = torch.ops.rocmforge
RUNNERS = [pytest.param(ops, id="kernel"), pytest.param(reference, id="reference")]


def oracle(
    x: torch.Tensor, positions: torch.Tensor, inv_freq: torch.Tensor, interleaved: bool
) -> torch.Tensor:
    """transformers' rotation in float64; x [B, T, H, D], positions [B, T]."""
    # The angles themselves are float32 products in the op.
    angles = (positions.float()[..., None] * inv_freq).double()
    cos, sin = (torch.cat([f(angles)] * 2, dim=-1) for f in (torch.cos, torch.sin))
    rotate = rotate_neighbours if interleaved else rotate_halves
    heads_first = x.double().transpose(1, 2)
    rotated, _ = rotate(heads_first, heads_first, cos, sin)
    return rotated.transpose(1, 2)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("head_dim", [32, 80, 128])
def test_rope_is_transformers(run: object, interleaved: bool, head_dim: int) -> None:
    x, positions = torch.randn(2, 9, 3, head_dim), torch.randint(0, 8192, (2, 9))
    inv_freq = frequencies(head_dim)
    got = run.rope(x, positions, inv_freq, interleaved)
    wanted = oracle(x, positions, inv_freq, interleaved)
    torch.testing.assert_close(got.double(), wanted, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_part_of_a_head_is_rotated_and_the_rest_passes(run: object, interleaved: bool) -> None:
    x, positions = torch.randn(1, 6, 2, 50), torch.arange(100, 106)
    inv_freq = frequencies(20)
    got = run.rope(x, positions, inv_freq, interleaved)
    wanted = oracle(x[..., :20], positions[None], inv_freq, interleaved)
    torch.testing.assert_close(got[..., :20].double(), wanted, rtol=1e-6, atol=1e-6)
    assert torch.equal(got[..., 20:], x[..., 20:])


@pytest.mark.parametrize("run", RUNNERS)
def test_scale_multiplies_the_rotation(run: object) -> None:
    x, positions, inv_freq = torch.randn(4, 2, 16), torch.arange(4), frequencies(16)
    once = run.rope(x, positions, inv_freq)
    torch.testing.assert_close(run.rope(x, positions, inv_freq, False, 1.5), 1.5 * once)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("interleaved", [False, True])
def test_products_of_rotated_vectors_depend_on_the_distance_alone(
    run: object, interleaved: bool
) -> None:
    q, k = torch.randn(1, 1, 64), torch.randn(1, 1, 64)
    inv_freq = frequencies(64)

    def product(query_position: int, key_position: int) -> torch.Tensor:
        a = run.rope(q, torch.tensor([query_position]), inv_freq, interleaved)
        b = run.rope(k, torch.tensor([key_position]), inv_freq, interleaved)
        return (a * b).sum()

    torch.testing.assert_close(product(7, 3), product(1007, 1003), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("position", [0, 1, 4095, 131071, 16_000_000])
def test_angles_are_exact_at_far_positions(position: int) -> None:
    x = torch.zeros(1, 1, 64)
    x[..., :32] = 1.0  # the output is cos, then sin
    inv_freq = frequencies(64, 500_000.0)
    got = ops.rope(x, torch.tensor([position]), inv_freq).flatten().double()
    angles = (torch.tensor(float(position)) * inv_freq).double()
    wanted = torch.cat([angles.cos(), angles.sin()])
    torch.testing.assert_close(got, wanted, rtol=0, atol=1.5e-7)
