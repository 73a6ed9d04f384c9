"""The running figures of `divergence` against numpy's over all positions so far."""

from __future__ import annotations

import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import rocmforge_torch.research  # noqa: F401

module = sys.modules["rocmforge_torch.research.divergence"]  # its function has taken its name


@pytest.mark.usefixtures("quick_gc")
@pytest.mark.parametrize(("seed", "positions"), [(0, 1), (1, 2), (2, 7), (3, 64)])
def test_figures_after_every_window(
    seed: int, positions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng, chunks = np.random.default_rng(seed), 40
    kl = rng.lognormal(-4, 2, (chunks, positions))
    kl[rng.random(kl.shape) < 0.2] = 0.5  # equal ones, too
    same = (rng.random(kl.shape) < 0.9).astype(np.float64)
    first, second = -rng.exponential(3, (2, *kl.shape))
    windows = iter(torch.from_numpy(np.stack([kl, same, first, second], 1)))
    alive: list[Any] = []

    def scores(*args: Any) -> Tensor:
        gc.collect()
        assert not any(window() is not None for window in alive)  # none is looked at twice
        window = next(windows).clone()
        alive.append(weakref.ref(window))
        return window

    monkeypatch.setattr(module, "_scores", scores)
    tokens = list(range(4 * chunks))
    for n, got in enumerate(module.token_divergence(None, None, tokens, None, 4), 1):  # type: ignore[arg-type]
        values = kl[:n].ravel()
        assert (got.chunk, got.chunks, got.positions) == (n, chunks, values.size)
        want = {
            "kl": values.mean(),
            "kl_error": values.std() / np.sqrt(max(values.size - 1, 1)),
            "kl_median": np.median(values),
            "kl_99": np.quantile(values, 0.99),
            "kl_max": values.max(),
            "same_top": same[:n].mean(),
            "perplexity_a": np.exp(-first[:n].mean()),
            "perplexity_b": np.exp(-second[:n].mean()),
        }
        assert {name: getattr(got, name) for name in want} == pytest.approx(want, rel=1e-11)
    assert n == chunks


@pytest.mark.parametrize("odd", [float("inf"), float("nan")])
def test_divergences_that_are_no_finite_number(odd: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A token that b rules out and a does not, and a broken model."""
    windows = iter(torch.ones(3, 4, 3, dtype=torch.float64))
    broken = torch.tensor([[odd, 1.0, 2.0], [1.0] * 3, [-1.0] * 3, [-2.0] * 3]).double()
    monkeypatch.setattr(
        module, "_scores", lambda *args: broken if len(calls) == 1 else next(windows)
    )
    calls: list[Any] = []
    for found in module.token_divergence(None, None, list(range(12)), None, 4):
        calls.append(found)
    before, after, last = calls
    assert before.kl == before.kl_max == 1
    for found in (after, last):
        assert np.isnan(found.kl_error)
        np.testing.assert_equal([found.kl, found.kl_max], [odd, odd])
        np.testing.assert_equal(found.kl_median, 1.0 if odd == np.inf else np.nan)
