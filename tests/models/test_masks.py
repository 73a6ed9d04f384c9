"""Attention masks that the caller brings, against transformers and against torch in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_models import TINY, build, write_gguf
from torch.nn import functional

from rocmforge_torch import load_model
from rocmforge_torch.models import CausalLM
from rocmforge_torch.nn import AttentionCore, Step

IDS = torch.tensor([[5, 9, 33, 2, 71, 8, 8, 40, 12], [1, 2, 3, 4, 5, 6, 7, 8, 9]])
T = IDS.shape[1]
CAUSAL = torch.ones(T, T, dtype=torch.bool).tril()
PREFIX = CAUSAL | (torch.arange(T) < 4)  # the first four tokens see each other
pytestmark = pytest.mark.usefixtures("exact")


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, CausalLM]:
    theirs = build(TINY["llama"])
    path = write_gguf(TINY["llama"], theirs, tmp_path_factory.mktemp("tiny") / "llama.gguf")
    return theirs, load_model(path)


def random_mask(heads: int = 1) -> torch.Tensor:
    """A float mask [2, heads, T, T] with scores and with keys that are not seen."""
    generator = torch.Generator().manual_seed(heads)
    bias = torch.randn(2, heads, T, T, generator=generator)
    hidden = torch.rand(2, heads, T, T, generator=generator) < 0.3
    hidden[..., 0] = False
    return bias.masked_fill(hidden, float("-inf"))


@torch.inference_mode()
@pytest.mark.parametrize(
    "mask",
    [CAUSAL, PREFIX, torch.ones(T, T, dtype=torch.bool), random_mask(), random_mask(4)],
    ids=["causal", "prefix", "all", "bias", "bias of each head"],
)
def test_masks_are_transformers(twins: tuple[Any, CausalLM], mask: torch.Tensor) -> None:
    theirs, ours = twins
    added = torch.zeros(mask.shape).masked_fill(~mask, -1e30) if mask.dtype == torch.bool else mask
    want = theirs(
        IDS, attention_mask=added.expand(2, added.shape[-3] if added.dim() > 2 else 1, T, T)
    )
    torch.testing.assert_close(ours(IDS, mask=mask), want.logits, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_a_mask_over_a_cache(twins: tuple[Any, CausalLM]) -> None:
    _, model = twins
    mask = PREFIX.expand(2, T, T).clone()
    mask[1, 6:, 2] = False
    want = model(IDS, mask=mask)
    cache = model.new_cache(2, 12, torch.float32)
    parts = [model(IDS[:, :5], cache, mask[:, :5, :5]), model(IDS[:, 5:], cache, mask[:, 5:])]
    torch.testing.assert_close(torch.cat(parts, 1), want, rtol=1e-4, atol=1e-5)
    assert cache.lengths.tolist() == [T, T]


@pytest.mark.parametrize("window", [0, 3])
@pytest.mark.parametrize("softcap", [0.0, 2.0])
def test_core_is_the_formula(window: int, softcap: float) -> None:
    torch.manual_seed(3)
    q, k, v = torch.randn(2, T, 4, 16), torch.randn(2, T, 2, 16), torch.randn(2, T, 2, 16)
    mask = random_mask(4)
    positions = torch.arange(T)
    lengths = torch.full((2,), T, dtype=torch.int32)
    core = AttentionCore(0.3, window, softcap)
    got = core(q, k, v, Step(positions, lengths, None, T, mask=mask))

    keys = k.double().repeat_interleave(2, 2).permute(0, 2, 3, 1)
    score = q.double().transpose(1, 2) @ keys * 0.3
    if softcap:
        score = softcap * (score / softcap).tanh()
    score = score + mask
    if window:
        score = score.masked_fill(positions <= positions[:, None] - window, float("-inf"))
    weight = score.softmax(-1).nan_to_num(0.0)  # a query may see nothing
    want = weight @ v.double().repeat_interleave(2, 2).transpose(1, 2)
    torch.testing.assert_close(got.double(), want.transpose(1, 2), rtol=1e-5, atol=1e-6)
    if not window and not softcap:
        args = (x.double().transpose(1, 2) for x in (q, k, v))
        torchs = functional.scaled_dot_product_attention(
            *args, attn_mask=mask.double(), scale=0.3, enable_gqa=True
        )
        torch.testing.assert_close(got.double(), torchs.transpose(1, 2), rtol=1e-5, atol=1e-6)


def test_gradients_flow_through_a_mask(twins: tuple[Any, CausalLM]) -> None:
    _, model = twins
    bias = torch.zeros(T, T).masked_fill(~CAUSAL, float("-inf")).requires_grad_()
    model(IDS, mask=bias).square().mean().backward()
    assert bias.grad is not None
    assert bias.grad[CAUSAL].abs().sum() > 0
    assert bias.grad[~CAUSAL].eq(0).all()


@pytest.mark.parametrize(
    ("mask", "complaint"),
    [
        (torch.ones(T, T, dtype=torch.int64), "must be bool or float, got torch.int64"),
        (CAUSAL[0], r"\[T, S\], \[B, T, S\] or \[B, H, T, S\] .* got \[9\]"),
        (CAUSAL[:3], r"T = 9 and S up to 9, got \[3, 9\]"),
        (torch.zeros(3, T, T), r"B = 2, .* got \[3, 9, 9\]"),
        (torch.zeros(2, 3, T, T), r"H = 4, .* got \[2, 3, 9, 9\]"),
        (torch.zeros(T, T + 1), r"S up to 9, got \[9, 10\]"),
        (torch.zeros(T, T, device="meta"), "must be on the device of the tokens, cpu, got meta"),
    ],
)
def test_masks_that_do_not_fit(
    twins: tuple[Any, CausalLM], mask: torch.Tensor, complaint: str
) -> None:
    _, model = twins
    with pytest.raises(ValueError, match=complaint):
        model(IDS, mask=mask)
