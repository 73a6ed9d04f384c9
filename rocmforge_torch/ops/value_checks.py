"""Checks of the values that say where an op reads or writes.

They run ahead of the reference, on the CPU alone, where looking costs nothing; the CPU kernels make
the same ones. A GPU would have to be waited for: a place outside is an error of the device there.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .registry import check


def _check_none(wrong: Tensor, op: str, message: str) -> None:
    """Refuse the first of the `wrong` values."""
    for value in wrong[:1].tolist():
        check(False, op, f"{message}, got {value}")


def embedding_ids(ids: Tensor, qweight: Tensor, *_: Any) -> None:
    wrong = ids[(ids < 0) | (ids >= len(qweight))]
    _check_none(wrong, "quant_embedding", f"ids must be in [0, {len(qweight)})")


def accumulate_offset(dst: Tensor, src: Tensor, offset: Tensor) -> None:
    n, limit, start = src.shape[0], dst.shape[0] - src.shape[0], int(offset)
    check(
        0 <= start <= limit,
        "accumulate_",
        f"offset must be between 0 and {limit} for {n} rows of src to fit into dst's "
        f"{dst.shape[0]}, got {start}",
    )


def cache_slots(k_cache: Tensor, v_cache: Tensor, k: Tensor, v: Tensor, slots: Tensor) -> None:
    _check_slots("kv_cache_write_", k_cache, slots)


def rope_cache_slots(
    k_cache: Tensor, v_cache: Tensor, q: Tensor, k: Tensor, v: Tensor, slots: Tensor, *_: Any
) -> None:
    _check_slots("rope_kv_cache_write_", k_cache, slots)


def _check_slots(op: str, cache: Tensor, slots: Tensor) -> None:
    places = cache.shape[0] * cache.shape[1]
    _check_none(
        slots[slots >= places], op, f"slots must be less than the {places} places of the cache"
    )


def attention_places(
    q: Tensor,
    k_cache: Tensor,
    v_cache: Tensor,
    seq_lens: Tensor,
    block_table: Tensor | None = None,
    *_: Any,
) -> None:
    num_blocks, block_size = k_cache.shape[:2]
    per_sequence = 1 if block_table is None else block_table.shape[1]
    room = block_size * per_sequence
    wrong_length = seq_lens[(seq_lens < 0) | (seq_lens > room)]
    message = f"seq_lens must be between 0 and the {room} positions of the cache"
    _check_none(wrong_length, "attention", message)
    if block_table is not None:
        first_position = torch.arange(per_sequence) * block_size
        used = block_table[first_position < seq_lens[:, None]]
        wrong = used[(used < 0) | (used >= num_blocks)]
        message = f"block_table must hold blocks between 0 and {num_blocks - 1} wherever seq_lens "
        _check_none(wrong, "attention", f"{message}reaches")
