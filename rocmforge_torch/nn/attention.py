"""Self-attention of a decoder layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .. import ops  # noqa: F401  (registers the operators)
from ..ops import reference
from .kv_cache import Step
from .linear import QuantLinear
from .norm import Norm, RMSNorm
from .normed_input import Block, Normed
from .projections import Projections
from .rope import RotaryEmbedding

attention = torch.ops.rocmforge.attention.default
kv_cache_write_ = torch.ops.rocmforge.kv_cache_write_.default
rope_kv_cache_write_ = torch.ops.rocmforge.rope_kv_cache_write_.default


class AttentionCore(nn.Module):
    """softmax(q k^T scale) v: a module of its own, so that a hook on it sees q, k and v."""

    def __init__(self, scale: float, window: int = 0, softcap: float = 0.0) -> None:
        super().__init__()
        self.scale = scale
        self.window = window
        self.softcap = softcap

    def forward(self, q: Tensor, k: Tensor, v: Tensor, step: Step) -> Tensor:
        """q [B, T, H, D], k and v [B, S, Hkv, D] (rotated; a cache in its format) -> [B, T, H, D].

        No kernel takes a mask: with one, the op's reference runs.
        """
        places = step.seq_lens, step.block_table
        if step.mask is None:
            return attention(q, k, v, *places, self.scale, True, self.window, self.softcap)
        return reference.attention(
            q, k, v, *places, self.scale, False, self.window, self.softcap, mask=step.mask
        )

    def weights(self, q: Tensor, k: Tensor, step: Step) -> Tensor:
        """What each query takes of each value, float32 [B, H, T, S]; by the op's reference."""
        causal = step.mask is None
        return reference.attention_weights(
            q,
            k,
            step.seq_lens,
            step.block_table,
            self.scale,
            causal,
            self.window,
            self.softcap,
            mask=step.mask,
        )

    def extra_repr(self) -> str:
        return f"scale={self.scale:.4g}, window={self.window}, softcap={self.softcap}"


class Attention(Block):
    """Grouped-query attention with rotary positions, over a cache or over its own tokens.

    `qkv` holds the projections of query, key and value: three, or fewer where neighbours are one
    matrix (query rows first, then key rows).
    `qk_norm` is None, or the norms of query and key; `norm_heads` says whether they see one head of
    D numbers at a time or all heads together.
    """

    def __init__(
        self,
        qkv: list[QuantLinear],
        out: QuantLinear,
        rope: RotaryEmbedding,
        num_heads: int,
        num_kv_heads: int,
        head_dim: int,
        *,
        scale: float,
        window: int = 0,
        softcap: float = 0.0,
        qk_norm: tuple[Norm, Norm] | None = None,
        norm_heads: bool = True,
    ) -> None:
        super().__init__()
        self.qkv = Projections(qkv)
        self.out = out
        self.rope = rope
        self.q_norm: Norm | None = qk_norm[0] if qk_norm else None
        self.k_norm: Norm | None = qk_norm[1] if qk_norm else None
        self.norm_heads = norm_heads
        self.head_dim = head_dim
        self.sizes = [num_heads * head_dim, num_kv_heads * head_dim, num_kv_heads * head_dim]
        self.splits = self._splits()
        self.core = AttentionCore(scale, window, softcap)

    def forward(
        self, x: Tensor | Normed, step: Step, cache: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """x [B, T, C] -> [B, T, C]; cache: k and v [B, S, Hkv, D], written to."""
        q, k, v = self._project(x)
        rope, positions, context = self.rope, step.positions, step.context
        norms = self._weights_of_norms()
        if cache is not None and norms is not None:
            rotation = rope.frequencies(context), rope.interleaved, rope.scale
            q = rope_kv_cache_write_(*cache, q, k, v, step.slots, positions, *rotation, *norms)
        else:
            q, k = self._normed(q, k)
            q, k = rope(q, positions, context), rope(k, positions, context)
            if cache is not None:
                kv_cache_write_(*cache, k, v, step.slots)
        if cache is not None:
            k, v = cache
        return self.out(self.core(q, k, v, step).flatten(-2))

    def fuse_(self) -> Attention:
        """Make neighbours of query, key and value one matrix, where their types agree."""
        self.qkv.fuse_()
        self.splits = self._splits()
        return self

    def _splits(self) -> list[list[int]]:
        """For every layer of qkv the sizes of what it holds of query, key and value."""
        sizes = [self.sizes] if len(self.qkv) == 1 else self.qkv.rows
        return [list(rows) for rows in sizes]

    def input_layer(self) -> nn.Module | None:
        """The one that reads x, if there is only one."""
        return self.qkv[0] if len(self.qkv) == 1 else None

    def _project(self, x: Tensor | Normed) -> tuple[Tensor, Tensor, Tensor]:
        """Query [B, T, Hq, D], key and value [B, T, Hkv, D], before their norms."""
        parts = [projection(x) for projection in self.qkv]
        if len(parts) < 3:
            pairs = zip(parts, self.splits, strict=True)
            parts = [piece for part, sizes in pairs for piece in part.split(sizes, -1)]
        q, k, v = parts
        heads = (*x.shape[:-1], -1, self.head_dim)
        return q.view(heads), k.view(heads), v.view(heads)

    def _normed(self, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
        q_norm, k_norm = self.q_norm, self.k_norm
        if q_norm is None or k_norm is None:
            return q, k
        if self.norm_heads:
            return q_norm(q), k_norm(k)
        return q_norm(q.flatten(-2)).view(q.shape), k_norm(k.flatten(-2)).view(k.shape)

    def _weights_of_norms(self) -> tuple[Tensor | None, Tensor | None, float] | None:
        """What the op needs that norms, rotates and writes to the cache: two weights and an
        epsilon. None where the norms are none that it knows."""
        q_norm, k_norm = self.q_norm, self.k_norm
        if q_norm is None or k_norm is None:
            return None, None, 0.0
        if not (isinstance(q_norm, RMSNorm) and isinstance(k_norm, RMSNorm)):
            return None
        if not self.norm_heads or q_norm.eps != k_norm.eps:
            return None
        return q_norm._parameters["weight"], k_norm._parameters["weight"], q_norm.eps
