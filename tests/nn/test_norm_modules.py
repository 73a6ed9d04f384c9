"""Norms against PyTorch's own."""

from __future__ import annotations

import torch
from torch.nn import functional

from rocmforge_torch.nn import LayerNorm, NoNorm, RMSNorm

X, RESIDUAL = torch.randn(2, 3, 32), torch.randn(2, 3, 32)
WEIGHT, BIAS = torch.randn(32), torch.randn(32)


def test_rms_norm() -> None:
    norm = RMSNorm(WEIGHT, 1e-5)
    torch.testing.assert_close(norm(X), functional.rms_norm(X, [32], WEIGHT, 1e-5))
    normed, total = norm.add(X, RESIDUAL)
    torch.testing.assert_close(total, X + RESIDUAL)
    torch.testing.assert_close(normed, functional.rms_norm(total, [32], WEIGHT, 1e-5))


def test_layer_norm() -> None:
    norm = LayerNorm(WEIGHT, BIAS, 1e-5)
    torch.testing.assert_close(norm(X), functional.layer_norm(X, [32], WEIGHT, BIAS, 1e-5))
    normed, total = norm.add(X, RESIDUAL)
    torch.testing.assert_close(total, X + RESIDUAL)
    torch.testing.assert_close(normed, functional.layer_norm(total, [32], WEIGHT, BIAS, 1e-5))


def test_layer_norm_of_each_head() -> None:
    weight, x = torch.randn(4, 32), torch.randn(2, 3, 4, 32)
    got = LayerNorm(weight, None, 1e-5)(x)
    for head in range(4):
        want = functional.layer_norm(x[:, :, head], [32], weight[head], None, 1e-5)
        torch.testing.assert_close(got[:, :, head], want)


def test_layer_norm_keeps_half_precision() -> None:
    assert LayerNorm(WEIGHT, BIAS, 1e-5)(X.half()).dtype == torch.float16


def test_no_norm() -> None:
    norm = NoNorm()
    assert norm(X) is X
    for part in norm.add(X, RESIDUAL):
        torch.testing.assert_close(part, X + RESIDUAL)
