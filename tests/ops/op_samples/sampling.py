from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .base import FLOATS, BadSample, BadSamples, Sample, Samples, permuted, randn, strided


def parameters(
    batch: int,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> tuple[Tensor, ...]:
    return (
        torch.full((batch,), temperature),
        torch.full((batch,), top_k),
        torch.full((batch,), top_p),
        torch.full((batch,), min_p),
        torch.randint(-(2**63), 2**63 - 1, (batch,)),
        torch.randint(0, 2**40, (batch,)),
    )


def sample() -> Iterator[Sample]:
    for dtype in FLOATS:
        logits = 3 * randn(8, 1003, dtype=dtype)
        yield Sample((logits, *parameters(8, 0.0)), name="greedy")
        yield Sample((logits, *parameters(8, 0.7, 40, 0.95, 0.05)), name="all filters")
    logits = 2 * randn(16, 2000)
    for filters in (
        {},
        {"top_k": 1},
        {"top_k": 40},
        {"top_k": 1900},
        {"top_k": 5000},
        {"top_p": 0.9},
        {"top_p": 0.0},
        {"min_p": 0.1},
        {"min_p": 1.0},
        {"min_p": 1.5},
        {"top_k": 300, "top_p": 0.5},
        {"top_p": 0.7, "min_p": 0.02},
    ):
        yield Sample((logits, *parameters(16, 0.9, **filters)), name=str(filters))
    mixed = [torch.cat(p) for p in zip(parameters(8), parameters(8, 0.0, 5), strict=True)]
    yield Sample((logits, *mixed), name="rows with parameters of their own")
    yield Sample((torch.zeros(9, 300), *parameters(9, top_k=7, top_p=0.8)), name="all equal")
    yield Sample((torch.zeros(9, 300), *parameters(9, top_p=0.8)), name="all equal, top-p alone")
    for vocab in (512, 513):
        # As many candidates as the GPU's kernel ranks one by one, and one more.
        filters = parameters(4, top_k=vocab - 1, top_p=0.8)
        yield Sample((torch.zeros(4, vocab), *filters), name=f"{vocab} equal")
    nan, ties = float("nan"), logits.round()
    for filters in ({"min_p": 2.0}, {"min_p": nan}, {"top_p": nan}, {"temperature": nan}):
        yield Sample((ties, *parameters(16, **filters)), name=f"one of many maxima: {filters}")
    special = randn(6, 70)
    special[0, ::3] = float("-inf")
    special[1] = float("-inf")
    special[2, 5:9] = float("inf")
    special[3, ::2] = float("nan")
    special[4] = float("nan")
    yield Sample((special, *parameters(6)), name="special values")
    yield Sample((special, *parameters(6, 0.8, top_k=10, top_p=0.9)), name="special, filtered")
    yield Sample((special, *parameters(6, 0.8, top_p=0.9, min_p=0.01)), name="special, filtered")
    yield Sample((permuted(5, 90), *parameters(5)), name="columns")
    yield Sample((strided(5, 90), *parameters(5, 0.0)), name="rows apart")
    yield Sample((randn(3, 1), *parameters(3, top_k=2)), name="one token")
    yield Sample((randn(0, 10), *parameters(0)), name="no rows")


def bad_sample() -> Iterator[BadSample]:
    logits, good = randn(3, 16), parameters(3)
    yield BadSample((logits[0], *good), r"logits must be \[B, V\], got \[16\]")
    yield BadSample((logits[:, :0], *good), "logits have no tokens")
    yield BadSample((logits.double(), *good), "logits must be float32 or")
    names = ("temperature", "top_k", "top_p", "min_p", "seed", "step")
    for i, name in enumerate(names):
        wrong = good[i].long() if good[i].is_floating_point() else good[i].float()
        for value, match in (
            (wrong, "must be (float32|int64), got"),
            (good[i][:2], "must have sha"),
        ):
            yield BadSample((logits, *good[:i], value, *good[i + 1 :]), f"{name} {match}")


SAMPLES: Samples = {"sample": sample}
BAD_SAMPLES: BadSamples = {"sample": bad_sample}
