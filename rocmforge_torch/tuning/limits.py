"""Up to how many rows of activations each of our own kernels takes a product."""

from __future__ import annotations

from dataclasses import dataclass

# What the library calls the kernels, those of many rows last (`extension.product_kernel`).
KERNELS = ("matvec", "multirow", "tile", "expand, GEMM")


@dataclass(frozen=True, order=True)
class Limits:
    """The most rows that each kernel is taken for; more than `tile` go to the vendor's GEMM.

    No number is less than the one before; a kernel with the same number is never taken.
    """

    matvec: int
    multirow: int
    tile: int


# Both as csrc/ops/product_limits.h has them: tests/gpu/test_tuning_on_gpu.py asks the library.
DEFAULT = Limits(2, 16, 128)
MOST = Limits(8, 16, 65535)
