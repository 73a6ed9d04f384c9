"""Attention masks that a caller brings."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_mask(mask: Tensor, ids: Tensor, heads: int, room: int) -> Tensor:
    """The mask [B or 1, H or 1, T, S] of a call, checked.

    Args:
        mask: bool (True: the key is seen) or float (added to the scores), [T, S], [B, T, S] or
            [B or 1, H or 1, T, S].
        ids: [B, T], the tokens that it is for.
        heads: H.
        room: the most keys there can be, S at most.

    Raises:
        ValueError: it is neither bool nor float, does not fit, or is on another device.
    """
    batch, tokens = ids.shape
    if mask.dtype != torch.bool and not mask.is_floating_point():
        raise ValueError(f"mask must be bool or float, got {mask.dtype}")
    if mask.device != ids.device:
        raise ValueError(
            f"mask must be on the device of the tokens, {ids.device}, got {mask.device}"
        )
    wide = {2: (None, None), 3: (slice(None), None), 4: ()}.get(mask.dim())
    shaped = mask if wide is None else mask[wide]
    fits = wide is not None and (
        shaped.shape[0] in (1, batch)
        and shaped.shape[1] in (1, heads)
        and shaped.shape[2] == tokens
        and shaped.shape[3] <= room
    )
    if not fits:
        raise ValueError(
            f"mask must be [T, S], [B, T, S] or [B, H, T, S] with B = {batch}, H = {heads}, "
            f"T = {tokens} and S up to {room}, got {list(mask.shape)}"
        )
    return shaped
