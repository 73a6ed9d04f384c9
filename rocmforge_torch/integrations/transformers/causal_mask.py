"""A causal mask as the few numbers that it follows from, which are what our attention reads.

A mask of transformers says of every query and key whether they meet. Where these are just the keys
up to the query's own, or the last W of them, it is enough to know how many keys there are. That
number is a tensor, for it is on the device that a static cache counts its tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor


def causal_mask(lengths: Tensor, window: int = 0) -> Tensor:
    """What is handed to attention in the place of a mask, int32 [B, 1, 1, W].

    It has four dimensions because transformers passes on as it is what has four. The last one,
    which takes no memory, says how many keys a query sees, its own included; 1 if all before it.

    Args:
        lengths: int32 [B], the keys of each sequence, the new ones included.
        window: how many keys a query sees; 0 all, 1 cannot be said.
    """
    return lengths.view(-1, 1, 1, 1).expand(-1, 1, 1, max(window, 1))


def lengths_and_window(mask: Tensor | None) -> tuple[Tensor, int] | None:
    """The arguments of `causal_mask` that a mask was made of; None if it is another mask."""
    if mask is None or mask.dtype != torch.int32 or mask.dim() != 4 or mask.shape[2] != 1:
        return None
    width = mask.shape[3]
    return mask[:, 0, 0, 0], width if width > 1 else 0


def visible(lengths: Tensor, window: int, queries: int, keys: int) -> Tensor:
    """The same mask as other implementations take it, bool [B, 1, queries, keys], True: seen."""
    steps = torch.arange(queries, device=lengths.device)
    own = (lengths[:, None] - queries + steps)[:, None, :, None]
    key = torch.arange(keys, device=lengths.device)
    seen = key <= own
    return seen & (key > own - window) if window else seen
