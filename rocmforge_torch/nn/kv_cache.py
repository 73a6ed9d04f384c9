"""The key-value cache: allocated once, so that no shape changes while decoding."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from ..ops.reference.cache_formats import CACHE_FORMATS, PLAIN, CacheFormat

# A dtype, or a name that llama.cpp has for a cache type.
CacheDtype = torch.dtype | str
CacheDtypes = CacheDtype | tuple[CacheDtype, CacheDtype]  # of both, or of keys and of values


@dataclass(frozen=True)
class Step:
    """Where the tokens of one call stand; every tensor is on the model's device.

    Attributes:
        positions: int64 [B, T] (or [T] without a cache).
        seq_lens: int32 [B], keys of each sequence, the T new ones included.
        slots: int64 [B, T], where keys and values go in the cache, negative for padding that has no
            room; None without a cache.
        context: the most tokens a sequence can get in this cache or call.
        block_table: int32 [B, 1], which sequence of the cache each row of the call is; None where
            row b is sequence b.
        mask: bool or float [B or 1, H or 1, T, S], as `attention_mask` returns it; None for the
            causal one, which kernels know.
    """

    positions: Tensor
    seq_lens: Tensor
    slots: Tensor | None
    context: int
    block_table: Tensor | None = None
    mask: Tensor | None = None


def uncached_step(tokens: Tensor) -> Step:
    """The step of a call that attends to its own T tokens alone; ids [B, T] or states [B, T, C]."""
    b, t = tokens.shape[:2]
    positions = torch.arange(t, device=tokens.device)
    return Step(positions, torch.full((b,), t, dtype=torch.int32, device=tokens.device), None, t)


def cache_formats(dtypes: CacheDtypes) -> tuple[CacheFormat, CacheFormat]:
    """How keys and values are stored.

    Raises:
        ValueError: no format has this name or dtype.
    """
    keys, values = dtypes if isinstance(dtypes, tuple) else (dtypes, dtypes)
    return _format(keys), _format(values)


def _format(dtype: CacheDtype) -> CacheFormat:
    known = CACHE_FORMATS.get(dtype) if isinstance(dtype, str) else PLAIN.get(dtype)
    if known is None:
        raise ValueError(f"no KV cache has type {dtype}; there are {', '.join(CACHE_FORMATS)}")
    return known


def cache_bytes(
    num_layers: int,
    batch_size: int,
    max_seq_len: int,
    num_kv_heads: int,
    head_dim: int,
    dtypes: CacheDtypes,
) -> int:
    """Bytes of a `KVCache`."""
    rows = num_layers * batch_size * max_seq_len * num_kv_heads
    return rows * sum(f.row_size(head_dim) * f.dtype.itemsize for f in cache_formats(dtypes))


class CachedLayers(Protocol):
    """What a decoder reads of a cache: keys and values, a tensor [B, S, Hkv, D] a layer."""

    @property
    def k(self) -> Sequence[Tensor]: ...
    @property
    def v(self) -> Sequence[Tensor]: ...


class KVCache:
    """Keys and values of B sequences of at most S tokens.

    Attributes:
        k, v: one tensor [B, S, Hkv, D] a layer; of a format with blocks (q8_0, q4_0), uint8
            [B, S, Hkv, bytes].
        lengths: int64 [B], tokens of each sequence so far, on the device.
    """

    def __init__(
        self,
        num_layers: int,
        batch_size: int,
        max_seq_len: int,
        num_kv_heads: int,
        head_dim: int,
        dtypes: CacheDtypes,
        device: torch.device | str = "cpu",
    ) -> None:
        """Raises ValueError: no format has this type, or head_dim is no multiple of its blocks."""

        def layers(stored: CacheFormat) -> list[Tensor]:
            shape = (batch_size, max_seq_len, num_kv_heads, stored.row_size(head_dim))
            return [
                torch.empty(shape, dtype=stored.dtype, device=device) for _ in range(num_layers)
            ]

        keys, values = cache_formats(dtypes)
        self.k, self.v = layers(keys), layers(values)
        self.lengths = torch.zeros(batch_size, dtype=torch.int64, device=device)
        self.max_seq_len = max_seq_len
        self.longest = 0  # the longest sequence, as far as the host can know
        first_slot = torch.arange(batch_size, device=device) * max_seq_len
        self._first_slot = first_slot[:, None]

    @property
    def batch_size(self) -> int:
        return self.lengths.shape[0]

    @property
    def nbytes(self) -> int:
        """Bytes that keys and values can take; pages never written to take no memory."""
        return sum(tensor.nbytes for tensor in (*self.k, *self.v))

    def advance(self, tokens: int, counts: Tensor | None = None) -> Step:
        """Make room for the next `tokens` tokens of every sequence.

        Args:
            tokens: T, how many tokens a row of the batch has.
            counts: int64 [B], how many of a row's T tokens are real (the rest is padding on the
                right); None if all are. A row with padding keeps room for T tokens, except that a
                row without real tokens may be full.

        Raises:
            ValueError: the cache has no room for T more tokens.
        """
        if self.longest + tokens > self.max_seq_len and counts is None:
            raise ValueError(
                f"the KV cache holds {self.max_seq_len} tokens a sequence, {self.longest} are "
                f"taken and {tokens} more do not fit"
            )
        offsets = torch.arange(tokens, device=self.lengths.device)
        positions = self.lengths[:, None] + offsets
        slots = self._first_slot + positions
        seq_lens = self.lengths + tokens
        if counts is None:
            self.lengths += tokens
        else:
            # Padding is stored too, where the next real tokens will overwrite it: attention counts
            # it among the keys, and what stands there must be numbers even where it is masked.
            slots = torch.where(positions < self.max_seq_len, slots, -1)
            seq_lens = seq_lens.clamp(max=self.max_seq_len)
            self.lengths += counts
        self.longest = min(self.longest + tokens, self.max_seq_len)
        return Step(positions, seq_lens.to(torch.int32), slots, self.max_seq_len)

    def sequences(self, first: int, count: int = 1) -> KVCache:
        """`count` sequences from number `first` on, as a cache over the same memory."""
        part = copy.copy(self)
        chosen = slice(first, first + count)
        part.k, part.v = [k[chosen] for k in self.k], [v[chosen] for v in self.v]
        part.lengths = self.lengths[chosen]
        part._first_slot = self._first_slot[:count]
        return part

    def truncate(self, length: int) -> None:
        """Keep the first `length` tokens of every sequence."""
        self.lengths.clamp_(max=length)
        self.longest = min(self.longest, length)

    def reset(self) -> None:
        """Forget all tokens; the memory stays."""
        self.lengths.zero_()
        self.longest = 0
