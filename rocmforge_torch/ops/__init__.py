"""The op contract: `torch.ops.rocmforge.*` exist once this package is imported."""

from __future__ import annotations

from . import autograd, schemas
from .registry import OPS

__all__ = ["OPS", "autograd", "schemas"]
