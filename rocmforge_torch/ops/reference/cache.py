"""In-place updates at places that only the device knows."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from .cache_formats import cache_format


def accumulate_(dst: Tensor, src: Tensor, offset: Tensor) -> None:
    rows = offset.reshape(()) + torch.arange(src.shape[0], device=dst.device)
    dst.index_add_(0, rows, src)


def kv_cache_write_(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, slots: Tensor) -> None:
    slots = slots.flatten()
    token = torch.nonzero(slots >= 0).flatten()
    block, position = slots[token] // k_cache.shape[1], slots[token] % k_cache.shape[1]
    for cache, new in ((k_cache, k), (v_cache, v)):
        rows = rearrange(new, "... h d -> (...) h d")[token]
        stored = cache_format(cache, new.shape[-1]).encode(rows)
        if cache.dtype.itemsize == 1:  # torch cannot index 8-bit floats everywhere
            cache, stored = cache.view(torch.uint8), stored.view(torch.uint8)
        cache[block, position] = stored
