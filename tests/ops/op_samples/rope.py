from __future__ import annotations

from collections.abc import Iterator

import torch

from .base import FLOATS, BadSample, BadSamples, Sample, Samples, permuted, randn, strided


def frequencies(rotated: int, base: float = 10000.0) -> torch.Tensor:
    return base ** (-torch.arange(0, rotated, 2) / rotated)


def rope() -> Iterator[Sample]:
    for dtype in FLOATS:
        for interleaved in (False, True):
            x = randn(2, 5, 3, 32, dtype=dtype)
            yield Sample((x, torch.arange(5), frequencies(32), interleaved))
            positions = torch.randint(0, 4096, (2, 5))
            yield Sample((x, positions, frequencies(20), interleaved, 1.3), name="part, batched")
    x = randn(6, 2, 130)
    yield Sample((x, torch.arange(6, dtype=torch.int32), frequencies(130)), name="int32 positions")
    yield Sample((x, torch.arange(12)[::2], frequencies(130)), name="strided positions")
    yield Sample((x, torch.full((6,), 131071), frequencies(64, 1e6)), name="far positions")
    yield Sample((strided(2, 4, 3, 24), torch.arange(4), frequencies(24)), name="strided")
    yield Sample((permuted(2, 4, 3, 24), torch.arange(4), frequencies(24)), name="permuted")
    heads_first = randn(2, 3, 4, 24).transpose(1, 2)
    yield Sample((heads_first, torch.arange(4), frequencies(16)), name="heads first in memory")
    yield Sample((randn(2, 4, 3, 24), torch.arange(4), torch.empty(0)), name="nothing rotated")
    yield Sample((randn(0, 4, 3, 8), torch.arange(4), frequencies(8)), name="no sequences")
    yield Sample((randn(300, 4, 64), torch.arange(300), frequencies(64)), name="several threads")


def bad_rope() -> Iterator[BadSample]:
    x, positions, inv_freq = randn(2, 5, 3, 8), torch.arange(5), frequencies(8)
    yield BadSample((x.double(), positions, inv_freq), "x must be float32 or")
    yield BadSample((x[0, 0], positions, inv_freq), "x must have at least 3 dim")
    yield BadSample((x, positions.float(), inv_freq), "positions must be int64 or int32, got fl")
    yield BadSample((x, torch.arange(4), inv_freq), "positions must have shape .*got .4.")
    yield BadSample((x, positions.expand(3, 5), inv_freq), "positions must have shape .*got .3, 5")
    yield BadSample((x, positions, inv_freq.half()), "inv_freq must be float32, got float16")
    yield BadSample(
        (x, positions, frequencies(10)), r"inv_freq must have shape \[R/2\] .* 8, got .5"
    )
    yield BadSample((x, positions, inv_freq[None]), r"inv_freq must have shape \[R/2\].*got .1, 4")


SAMPLES: Samples = {"rope": rope}
BAD_SAMPLES: BadSamples = {"rope": bad_rope}
