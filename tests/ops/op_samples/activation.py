from __future__ import annotations

from collections.abc import Iterator

import torch

from .base import FLOATS, BadSample, BadSamples, Sample, Samples, permuted, randn, strided


def gated() -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape in ((1, 64), (3, 5, 37), (7,)):
            yield Sample((randn(*shape, dtype=dtype), randn(*shape, dtype=dtype)))
        halves = randn(2, 3, 2 * 40, dtype=dtype).chunk(2, dim=-1)
        yield Sample(tuple(halves), name="halves of one tensor")
    yield Sample((permuted(3, 4, 5), strided(3, 4, 5)), name="views")
    yield Sample((randn(0, 16), randn(0, 16)), name="no rows")
    yield Sample((randn(64, 600), randn(64, 600)), name="several threads")
    extremes = torch.tensor([[0.0, -0.0, 1e-30, -1e-30, 20, -20, 88, -88, 200, -200, 1e30, -1e30]])
    yield Sample((extremes, torch.ones_like(extremes)), name="extremes")


def bad() -> Iterator[BadSample]:
    x = randn(3, 16)
    yield BadSample((x.double(), x.double()), "gate must be float32 or float16 or bfloat16")
    yield BadSample((torch.tensor(1.0), torch.tensor(1.0)), "gate must have at least 1 dim")
    yield BadSample((x, randn(3, 15)), r"up must have shape \[3, 16\], got \[3, 15\]")
    yield BadSample((x, x.bfloat16()), "up must be float32, got bfloat16")


SAMPLES: Samples = {"silu_mul": gated, "gelu_mul": gated}
BAD_SAMPLES: BadSamples = {"silu_mul": bad, "gelu_mul": bad}
