"""Checks of key-value cache tensors, the twin of csrc/ops/cache_checks.h."""

from __future__ import annotations

from torch import Tensor

from .checks import check_dtype
from .reference.cache_formats import BLOCKS, CACHE_DTYPES, PLAIN, CacheFormat, cache_head_dim
from .registry import check


def check_cache(op: str, name: str, cache: Tensor) -> None:
    """What every format asks for: a dtype of one, and [A, S, Hkv, size of a row]."""
    check_dtype(op, name, cache, CACHE_DTYPES)
    check(cache.dim() == 4, op, f"{name} must be [A, S, Hkv, D], got {list(cache.shape)}")


def check_head(op: str, name: str, cache: Tensor, head_dim: int) -> CacheFormat:
    """The format of a cache of blocks for heads of `head_dim` values, or of a plain one."""
    if cache.dtype in PLAIN:
        return PLAIN[cache.dtype]
    check(
        head_dim % 32 == 0,
        op,
        f"{name} holds blocks: heads must have a multiple of 32 values, got {head_dim}",
    )
    size = cache.shape[3]
    q8_0, q4_0 = BLOCKS
    wanted = [entry.row_size(head_dim) for entry in BLOCKS]
    check(
        size in wanted,
        op,
        f"{name} must have {wanted[0]} bytes a head (q8_0) or {wanted[1]} (q4_0) for {head_dim} "
        f"values, got {size}",
    )
    # Kernels read scales as 16-bit numbers.
    steps = [cache.storage_offset(), *cache.stride()[:3]]
    check(
        cache.stride(3) == 1 and all(step % 2 == 0 for step in steps),
        op,
        f"{name} holds blocks: its last stride must be 1, the others and its start even, "
        f"got strides {list(cache.stride())} from {cache.storage_offset()}",
    )
    return q8_0 if size == wanted[0] else q4_0


def check_value_head(op: str, name: str, cache: Tensor, likely: int) -> int:
    """The number of values in a head of a cache whose tokens are not at hand."""
    size = cache.shape[3]
    check(
        cache.dtype in PLAIN or size % 34 == 0 or size % 18 == 0,
        op,
        f"{name} must have whole q8_0 blocks of 34 bytes or q4_0 blocks of 18 a head, got {size}",
    )
    return cache_head_dim(cache, likely)
