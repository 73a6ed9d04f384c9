"""Sampling parameters, and the sampler's distribution against its definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from rocmforge_torch.generate import Sampler, SamplingParams


def test_defaults_are_those_of_llama_cpp() -> None:
    params = SamplingParams()
    assert (params.temperature, params.top_k, params.top_p, params.min_p) == (0.8, 40, 0.95, 0.05)
    assert (params.repeat_penalty, params.repeat_last_n, params.max_tokens) == (1.0, 64, -1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("top_k", -1),
        ("top_p", 1.1),
        ("min_p", -0.5),
        ("repeat_penalty", 0.0),
        ("repeat_last_n", -1),
        ("max_tokens", -2),
        ("seed", -1),
        ("seed", 2**63),
        ("stop", ("",)),
    ],
)
def test_bad_parameters(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field} must"):
        SamplingParams(**{field: value})


def test_one_stop_text_may_be_given_alone() -> None:
    assert SamplingParams(stop="end").stop == ("end",)
    assert SamplingParams(stop=["a", "b"]).stop == ("a", "b")


def test_distribution() -> None:
    """8,000 rows, one seed each: frequencies within five standard deviations of softmax(l / T)."""
    logits = torch.tensor([1.0, 0.5, 0.0, -0.5, -1.0, -9.0])
    params = SamplingParams(temperature=0.7, top_k=4, top_p=1, min_p=0, seed=11)
    rows = 8000
    ids = Sampler(params, rows)(logits.expand(rows, -1).contiguous(), [])
    kept = logits.masked_fill(logits < logits.topk(4).values[-1], float("-inf"))
    want = torch.softmax(kept / 0.7, -1)
    got = torch.bincount(ids, minlength=6) / rows
    deviation = (want * (1 - want) / rows).sqrt()
    assert ((got - want).abs() <= 5 * deviation).all()


def test_steps_draw_new_numbers() -> None:
    sampler = Sampler(SamplingParams(temperature=5.0, top_k=0, top_p=1, min_p=0, seed=1), 1)
    logits = torch.zeros(1, 1000)
    assert len({sampler(logits, []).item() for _ in range(20)}) > 15


def test_largest_seed() -> None:
    sampler = Sampler(SamplingParams(seed=2**63 - 1), 2)
    assert sampler(torch.randn(2, 50), []).shape == (2,)


def test_penalty_divides_positive_and_multiplies_negative_scores() -> None:
    """As llama.cpp: a recent token's score moves down whatever its sign."""
    params = SamplingParams(temperature=0, repeat_penalty=2.0, repeat_last_n=2)
    logits = torch.tensor([[3.0, 2.0, 1.9]])
    assert Sampler(params, 1)(logits, [[0, 1]]).item() == 2
    assert Sampler(params, 1)(logits, [[0, 2, 2]]).item() == 0, "only the last two count"
    negative = torch.tensor([[-1.0, -1.5, -3.0]])
    assert Sampler(params, 1)(negative, [[0]]).item() == 1
    assert torch.equal(logits, torch.tensor([[3.0, 2.0, 1.9]])), "the caller's scores stay"
