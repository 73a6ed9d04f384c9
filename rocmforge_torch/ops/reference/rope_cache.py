"""What stands between the projections and attention, as the ops that it stands for."""

from __future__ import annotations

from torch import Tensor

from .cache import kv_cache_write_
from .norm import rms_norm
from .rope import rope


def rope_kv_cache_write_(
    k_cache: Tensor,
    v_cache: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    slots: Tensor,
    positions: Tensor,
    inv_freq: Tensor,
    interleaved: bool = False,
    scale: float = 1.0,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
) -> Tensor:
    if q_norm is not None:
        q = rms_norm(q, q_norm, eps)
    if k_norm is not None:
        k = rms_norm(k, k_norm, eps)
    k = rope(k, positions, inv_freq, interleaved, scale)
    kv_cache_write_(k_cache, v_cache, k, v, slots)
    return rope(q, positions, inv_freq, interleaved, scale)
