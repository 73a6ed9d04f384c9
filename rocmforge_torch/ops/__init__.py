"""The op contract: `torch.ops.rocmforge.*` exist once this package is imported."""

from __future__ import annotations

from . import schemas, out  # isort: skip  (define the ops that autograd extends)
from . import autograd
from .registry import OPS

__all__ = ["OPS", "autograd", "out", "schemas"]
