from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_samples.sampling import parameters
from torch import Tensor

from rocmforge_torch.ops import reference
from rocmforge_torch.ops.reference.sampling import philox4x32

ops = torch.ops.rocmforge
RUNNERS = [pytest.param(ops, id="kernel"), pytest.param(reference, id="reference")]

# Known answers of Philox4x32-10 that the Random123 library publishes: counter, key, output.
KNOWN_ANSWERS = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000",
     "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff",
     "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0",
     "d16cfe09 94fdcceb 5001e420 24126ea1"),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "output"), KNOWN_ANSWERS)
def test_philox_gives_the_published_answers(counter: str, key: str, output: str) -> None:
    def words(text: str) -> tuple[Any, ...]:
        return tuple(torch.tensor(int(word, 16)) for word in text.split())

    assert philox4x32(words(counter), words(key)) == words(output)


def draws(run: Any, logits: Tensor, count: int, seed: int = 1, **filters: Any) -> Tensor:
    """Ids of `count` steps from the same row of logits [V]."""
    temperature, top_k, top_p, min_p, _, _ = parameters(count, **filters)
    seeds, steps = torch.full((count,), seed), torch.arange(count)
    rows = logits.expand(count, -1)
    return run.sample(rows, temperature, top_k, top_p, min_p, seeds, steps)


def numpy_filters(
    logits: Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> set[int]:
    """The ids that llama.cpp's chain of top-k, top-p and min-p samplers leaves."""
    values = logits.double().numpy()
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    if 0 < top_k < len(order):
        order = order[:top_k]
    if top_p < 1:
        weights = np.exp(values[order] - values[order[0]])
        probabilities, total, kept = weights / weights.sum(), 0.0, 0
        while kept < len(order) and (kept == 0 or total < np.float32(top_p)):
            total += probabilities[kept]
            kept += 1
        order = order[:kept]
    if min_p > 0:
        floor = values[order[0]] + np.log(np.float64(np.float32(min_p)))
        order = [i for i in order if values[i] >= floor]
    return set(order)


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize(
    "filters",
    [
        {},
        {"top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"top_k": 9, "top_p": 0.6},
        {"top_k": 9, "min_p": 0.3},
        {"top_p": 0.9, "min_p": 0.25},
        {"top_k": 12, "top_p": 0.95, "min_p": 0.02},
        {"top_p": 0.01},
    ],
    ids=str,
)
def test_the_kept_set_is_llama_cpps(run: Any, filters: dict[str, Any]) -> None:
    torch.manual_seed(0)
    logits = 2 * torch.randn(24)
    # Temperature comes after the filters: a high one makes whatever is left equally likely.
    seen = draws(run, logits, 1500, temperature=1000.0, **filters)
    assert set(seen.tolist()) == numpy_filters(logits, **filters)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_choices_stay_in_the_kept_set(data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 10**6)))
    vocab = data.draw(st.integers(1, 400))
    logits = data.draw(st.sampled_from([0.0, 0.5, 3.0, 30.0])) * torch.randn(vocab)
    filters = {
        "top_k": data.draw(st.sampled_from([0, 1, 3, 50, 399, 10**6])),
        "top_p": data.draw(st.sampled_from([0.0, 0.3, 0.9, 0.999, 1.0, 2.0])),
        "min_p": data.draw(st.sampled_from([0.0, 0.05, 0.7, 1.0])),
    }
    kept = numpy_filters(logits, **filters)
    ids = draws(ops, logits, 20, temperature=5.0, **filters)
    assert set(ids.tolist()) <= kept
    assert torch.equal(ids, draws(reference, logits, 20, temperature=5.0, **filters))


@pytest.mark.parametrize("run", RUNNERS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_frequencies_are_those_of_softmax(run: Any, temperature: float) -> None:
    torch.manual_seed(0)
    logits, count = torch.randn(20), 20_000
    found = draws(run, logits, count, temperature=temperature).bincount(minlength=20)
    expected = count * torch.softmax(logits.double() / temperature, dim=-1)
    chi_square = ((found - expected) ** 2 / expected).sum()
    assert chi_square < 45.3  # 19 degrees of freedom: exceeded once in 1500 times


@pytest.mark.parametrize("run", RUNNERS)
def test_frequencies_after_filters_are_renormalized(run: Any) -> None:
    logits = torch.tensor([3.0, 2.5, 2.0, 1.0, -1.0, 2.9])
    kept, count = [0, 1, 5], 12_000
    found = draws(run, logits, count, temperature=0.7, top_k=3).bincount(minlength=6)
    assert int(found[kept].sum()) == count
    expected = count * torch.softmax(logits[kept].double() / 0.7, dim=-1)
    assert ((found[kept] - expected) ** 2 / expected).sum() < 14.5  # 2 degrees, 1 in 1400


@pytest.mark.parametrize("run", RUNNERS)
def test_seed_and_step_decide_and_nothing_else(run: Any) -> None:
    logits = torch.randn(1000)
    first = draws(run, logits, 200, seed=7)
    assert torch.equal(first, draws(run, logits, 200, seed=7))
    assert (first != draws(run, logits, 200, seed=8)).float().mean() > 0.9
    assert (first[1:] != first[:-1]).float().mean() > 0.9
    # Neither the row nor what else is in the batch matters.
    args = [p[:1] for p in parameters(1)[:4]]
    alone = run.sample(logits[None], *args, torch.tensor([7]), torch.tensor([123]))
    assert int(alone) == int(first[123])


@pytest.mark.parametrize("run", RUNNERS)
def test_greedy_is_the_first_maximum(run: Any) -> None:
    logits = torch.tensor([[0.0, 2.0, 2.0, 1.0], [5.0, 5.0, 5.0, 5.0], [-3.0, -2.0, -1.0, -0.5]])
    assert run.sample(logits, *parameters(3, temperature=0.0)).tolist() == [1, 0, 3]
    assert run.sample(logits, *parameters(3, temperature=-1.0, top_k=2)).tolist() == [1, 0, 3]


@pytest.mark.parametrize("run", RUNNERS)
def test_impossible_tokens_are_never_chosen(run: Any) -> None:
    logits = torch.full((64,), float("-inf"))
    logits[[5, 9]] = torch.tensor([1.0, 1.5])
    logits[[2, 40]] = float("nan")
    assert set(draws(run, logits, 300, temperature=10.0).tolist()) == {5, 9}


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrow_logits_are_taken_at_their_value(dtype: torch.dtype) -> None:
    logits = (3 * torch.randn(500)).to(dtype)
    narrow = draws(ops, logits, 100, temperature=0.8, top_k=50)
    assert torch.equal(narrow, draws(ops, logits.float(), 100, temperature=0.8, top_k=50))


def test_a_real_vocabulary() -> None:
    torch.manual_seed(0)
    logits = 4 * torch.randn(1, 262_144)
    for filters in (
        {},
        {"top_k": 40},
        {"top_p": 0.9},
        {"min_p": 0.05},
        {"top_k": 5000, "top_p": 0.5},
    ):
        args = (logits, *parameters(1, **filters))
        assert torch.equal(ops.sample(*args), reference.sample(*args)), filters
