"""The formats of a key-value cache: how one head of one token is stored.

A cache tensor says its format by its dtype: a float for plain numbers, uint8 for GGML blocks. Those
of 32 values in 34 bytes are q8_0, those in 18 bytes are q4_0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...quant_types import QUANT_TYPES_BY_NAME, QuantType
from .quant_ops import dequantize, quantize


@dataclass(frozen=True)
class CacheFormat:
    """One format.

    Attributes:
        dtype: of the cache tensor.
        blocks: the GGML type of its blocks, None for plain numbers.
    """

    dtype: torch.dtype
    blocks: QuantType | None = None

    def row_size(self, head_dim: int) -> int:
        """The last dimension of a cache tensor whose heads have `head_dim` values.

        Raises:
            ValueError: that is no whole number of blocks.
        """
        if self.blocks is None:
            return head_dim
        if head_dim % self.blocks.block_size:
            raise ValueError(
                f"a {self.blocks.name.lower()} cache needs heads of a multiple of "
                f"{self.blocks.block_size} values, got {head_dim}"
            )
        return head_dim // self.blocks.block_size * self.blocks.block_bytes

    def encode(self, values: Tensor) -> Tensor:
        """Values [..., head_dim] -> [..., row_size]: rounded to the nearest, ties to even."""
        if self.blocks is not None:
            return quantize(values, self.blocks.id)
        if self.dtype == torch.float8_e4m3fn:  # older torch makes NaN of what is too large
            largest = torch.finfo(self.dtype).max
            values = values.clamp(-largest, largest)
        return values.to(self.dtype)

    def decode(self, rows: Tensor) -> Tensor:
        """The inverse, in float32."""
        if self.blocks is not None:
            return dequantize(rows, self.blocks.id, torch.float32)
        return rows.float()


# By the names of `rocmforge --cache-type-k`.
CACHE_FORMATS = {
    "f32": CacheFormat(torch.float32),
    "f16": CacheFormat(torch.float16),
    "bf16": CacheFormat(torch.bfloat16),
    "fp8": CacheFormat(torch.float8_e4m3fn),
    "fp8_e5m2": CacheFormat(torch.float8_e5m2),
    "q8_0": CacheFormat(torch.uint8, QUANT_TYPES_BY_NAME["Q8_0"]),
    "q4_0": CacheFormat(torch.uint8, QUANT_TYPES_BY_NAME["Q4_0"]),
}
CACHE_DTYPES = tuple(dict.fromkeys(entry.dtype for entry in CACHE_FORMATS.values()))
PLAIN = {entry.dtype: entry for entry in CACHE_FORMATS.values() if entry.blocks is None}
BLOCKS = tuple(entry for entry in CACHE_FORMATS.values() if entry.blocks is not None)


def cache_format(cache: Tensor, head_dim: int) -> CacheFormat:
    """The format of a cache whose heads have `head_dim` values.

    Raises:
        ValueError: its dtype or its last dimension is that of no format.
    """
    if cache.dtype in PLAIN:
        return PLAIN[cache.dtype]
    if cache.dtype == torch.uint8 and head_dim % 32 == 0:
        for entry in BLOCKS:
            if cache.shape[-1] == entry.row_size(head_dim):
                return entry
    raise ValueError(
        f"no cache format has {cache.dtype} and {cache.shape[-1]} for heads of {head_dim} values"
    )


def cache_head_dim(cache: Tensor, likely: int) -> int:
    """How many values a head of the cache has; where several answers fit, `likely`, then q8_0."""
    size = cache.shape[-1]
    if cache.dtype != torch.uint8:
        return size
    if likely % 32 == 0 and any(size == entry.row_size(likely) for entry in BLOCKS):
        return likely
    for entry in BLOCKS:
        assert entry.blocks is not None
        if size % entry.blocks.block_bytes == 0:
            return size // entry.blocks.block_bytes * entry.blocks.block_size
    raise ValueError(f"{size} bytes are no whole number of q8_0 or q4_0 blocks")
