"""`RocmForgeCache`: a static cache of transformers in this package's layout and formats."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import Cache, PreTrainedModel
from transformers.cache_utils import StaticLayer

from ...nn.kv_cache import CacheDtypes, cache_formats
from ...ops.reference.cache_formats import CacheFormat

kv_cache_write_ = torch.ops.rocmforge.kv_cache_write_.default


class RocmForgeCache(Cache):
    """Keys and values of B sequences of at most S tokens, for `attn_implementation="rocmforge"`.

    It is passed where transformers takes a cache (`model(ids, past_key_values=cache)`,
    `generate`), and used as a `StaticCache` is: shapes and addresses stay, so that a compiled or
    captured step serves every token. Different from that one: a token's heads lie side by side,
    keys and values may be quantized, layers with a window keep all tokens (their attention looks at
    the last ones), and the memory is there from the beginning.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        max_cache_len: int,
        batch_size: int = 1,
        dtype: CacheDtypes | None = None,
    ) -> None:
        """Allocate it.

        Args:
            model: the one it is for, where it computes.
            max_cache_len: S.
            batch_size: B.
            dtype: how keys and values are stored, as for `load_model(...).new_cache`: a dtype, a
                name such as "q8_0", or two of them; by default in the model's dtype. Only
                `attn_implementation="rocmforge"` reads others than that.

        Raises:
            ValueError: no format has this type, or heads are no multiple of its blocks.
        """
        config = model.config
        head_dim = getattr(config, "head_dim", None)
        head_dim = head_dim or config.hidden_size // config.num_attention_heads
        length = torch.zeros((), dtype=torch.int64, device=model.device)
        first_slots = torch.arange(batch_size, device=model.device)[:, None] * max_cache_len
        formats = cache_formats(dtype or model.dtype)
        heads = batch_size, config.num_key_value_heads, head_dim
        last = config.num_hidden_layers - 1
        layers: list[Any] = [
            RocmForgeLayer(max_cache_len, length, first_slots, heads, formats, counts=i == last)
            for i in range(last + 1)
        ]
        super().__init__(layers=layers)


class RocmForgeLayer(StaticLayer):
    """The cache of one layer.

    Attributes:
        keys, values: [B, S, Hkv, D]; of a format with blocks, uint8 [B, S, Hkv, bytes].
        cumulative_length: int64 [], how many tokens there are: one tensor of all layers, which the
            last layer counts up, so that a step computes once where its tokens go.
    """

    keys: Tensor
    values: Tensor

    def __init__(
        self,
        max_cache_len: int,
        length: Tensor,
        first_slots: Tensor,
        heads: tuple[int, int, int],
        formats: tuple[CacheFormat, CacheFormat],
        counts: bool,
    ) -> None:
        """What is no tensor of this layer alone is shared by all of them.

        Args:
            max_cache_len: S.
            length: becomes `cumulative_length`.
            first_slots: int64 [B, 1], where each sequence begins.
            heads: B, Hkv and D.
            formats: of keys and of values.
            counts: whether this is the last layer.
        """
        super().__init__(max_cache_len)
        self.cumulative_length = length
        self.device = length.device
        self.batch_size, self.num_heads, head_dim = heads
        self.k_head_dim = self.v_head_dim = head_dim
        self._counts = counts
        self.keys, self.values = (
            torch.zeros(
                (self.batch_size, max_cache_len, self.num_heads, stored.row_size(head_dim)),
                dtype=stored.dtype,
                device=self.device,
            )
            for stored in formats
        )
        self._first_slots = first_slots
        for tensor in (self.keys, self.values, length, first_slots):
            torch._dynamo.mark_static_address(tensor)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Store new keys and values [B, Hkv, T, D] behind those that are there.

        Returns:
            Both of the whole cache, [B, Hkv, S, *], views.
        """
        tokens = key_states.shape[2]
        offsets = torch.arange(tokens, device=self.device)
        slots = self._first_slots + self.cumulative_length + offsets
        fresh = key_states.transpose(1, 2), value_states.transpose(1, 2)
        kv_cache_write_(self.keys, self.values, *fresh, slots)
        if self._counts:
            self.cumulative_length.add_(tokens)
        return self.keys.transpose(1, 2), self.values.transpose(1, 2)

    def crop(self, tokens_to_remove: int) -> None:
        """Forget the last tokens; the number is negative, as transformers has it.

        Raises:
            RuntimeError: it is positive.
        """
        if tokens_to_remove > 0:
            raise RuntimeError(
                "a RocmForgeCache is cropped by a negative number, of tokens to forget, got "
                f"{tokens_to_remove}"
            )
        if self._counts:
            self.cumulative_length.add_(tokens_to_remove)
