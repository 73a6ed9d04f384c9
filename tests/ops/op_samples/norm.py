from __future__ import annotations

from collections.abc import Iterator

import torch

from .base import FLOATS, BadSample, BadSamples, Sample, Samples, permuted, randn, strided


def rms_norm() -> Iterator[Sample]:
    for dtype in FLOATS:
        for shape in ((1, 64), (3, 5, 37), (7,), (2, 1000)):
            yield Sample((randn(*shape, dtype=dtype), randn(shape[-1]), 1e-6))
        yield Sample((randn(4, 48, dtype=dtype), randn(48, dtype=dtype), 1e-5))
        yield Sample((randn(4, 48, dtype=dtype), None, 1e-5))
        yield Sample((strided(2, 3, 4, 33, dtype=dtype), randn(33), 1e-5))
    yield Sample((permuted(3, 4, 5, 6), strided(6), 1e-5))
    yield Sample((randn(0, 16), randn(16), 1e-5), name="no rows")
    yield Sample((randn(200, 300), randn(300), 1e-5), name="several threads")
    yield Sample((torch.zeros(2, 16), randn(16), 1e-5), name="zeros")


def add_rms_norm() -> Iterator[Sample]:
    for sample in rms_norm():
        x, weight, eps = sample.args
        yield Sample((x, torch.randn_like(x), weight, eps), name=sample.name)
    yield Sample((randn(3, 5, 32), permuted(3, 5, 32), randn(32), 1e-5))
    for dtype in FLOATS:
        for width in (64, 37, 1000):
            x, residual = 30 * randn(3, width, dtype=dtype), randn(3, width, dtype=dtype)
            for weights in ((randn(width), randn(width)), (None, randn(width, dtype=dtype))):
                args = (x, residual, weights[0], 1e-5, weights[1])
                yield Sample(args, name=f"x is normed, {dtype}")
    x, weights = strided(2, 3, 4, 33), (strided(33), strided(33))
    yield Sample(
        (x, permuted(2, 3, 4, 33), weights[0], 1e-5, weights[1]), name="x is normed, views"
    )
    x, weight = randn(200, 300), randn(300)
    yield Sample((x, x.clone(), weight, 1e-5, randn(300)), name="x is normed, several threads")


def bad_rms_norm() -> Iterator[BadSample]:
    x, weight = randn(3, 16), randn(16)
    yield BadSample((x.double(), weight, 1e-6), "x must be float32 or float16 or bfloat16, got fl")
    yield BadSample((torch.tensor(1.0), None, 1e-6), "x must have at least 1 dim")
    yield BadSample((x, randn(15), 1e-6), r"weight must have shape \[16\], got \[15\]")
    yield BadSample((x, randn(16).half(), 1e-6), "weight must be float32.*got float16")


def bad_add_rms_norm() -> Iterator[BadSample]:
    for bad in bad_rms_norm():
        x, weight, eps = bad.args
        yield BadSample((x, x, weight, eps), bad.match)
    x, weight = randn(3, 16), randn(16)
    yield BadSample((x, randn(2, 16), weight, 1e-6), r"residual must have shape \[3, 16\]")
    yield BadSample((x, x.half(), weight, 1e-6), "residual must be float32, got float16")
    half = x.half()
    for args, message in (
        ((x, x, weight, 1e-6, randn(15)), r"x_weight must have shape \[16\], got \[15\]"),
        ((x, x, weight, 1e-6, weight.half()), "x_weight must be float32, got float16"),
        ((half, half, weight.half(), 1e-6, weight), "x_weight must be float16, got float32"),
        ((half, half, None, 1e-6, weight.double()), "x_weight must be float16 or float32, got fl"),
    ):
        yield BadSample(args, message)


SAMPLES: Samples = {"rms_norm": rms_norm, "add_rms_norm": add_rms_norm}
BAD_SAMPLES: BadSamples = {"rms_norm": bad_rms_norm, "add_rms_norm": bad_add_rms_norm}
