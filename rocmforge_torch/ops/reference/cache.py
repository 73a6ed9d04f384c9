"""In-place updates at places that only the device knows.

On the CPU a place outside the destination is refused. A GPU is not asked, because the answer would
have to wait for it: there such a place is an error of the device itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..registry import check


def accumulate_(dst: Tensor, src: Tensor, offset: Tensor) -> None:
    n, limit = src.shape[0], dst.shape[0] - src.shape[0]
    if dst.device.type == "cpu":
        start = int(offset)
        check(
            0 <= start <= limit,
            "accumulate_",
            f"offset must be between 0 and {limit} for {n} rows of src to fit into dst's "
            f"{dst.shape[0]}, got {start}",
        )
    rows = offset.reshape(()) + torch.arange(n, device=dst.device)
    dst.index_add_(0, rows, src)


def kv_cache_write_(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, slots: Tensor) -> None:
    places, size = k_cache.shape[0] * k_cache.shape[1], k_cache.shape[1]
    slots = slots.flatten()
    if slots.device.type == "cpu" and slots.numel():
        largest = int(slots.max())
        check(
            largest < places,
            "kv_cache_write_",
            f"slots must be less than the {places} places of the cache, got {largest}",
        )
    token = torch.nonzero(slots >= 0).flatten()
    slots = slots[token]
    for cache, new in ((k_cache, k), (v_cache, v)):
        rows = new.reshape(-1, *new.shape[-2:])[token]
        cache[slots // size, slots % size] = rows.to(cache.dtype)
