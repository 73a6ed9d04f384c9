"""The decoder: one module for every architecture of the table."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeGuard

import torch
from torch import Tensor, nn

from ..nn import (
    MLP,
    Attention,
    GatedMLP,
    KVCache,
    LayerNorm,
    NoNorm,
    Norm,
    QuantLinear,
    RMSNorm,
    RotaryEmbedding,
    Step,
    attention_mask,
    is_looked_at,
    normed_input,
    total_of,
    uncached_step,
)
from ..nn.kv_cache import CachedLayers
from .config import DecoderConfig
from .weights import Weights

# Tables of old converters that hold nothing beyond what the metadata says.
IGNORED_TENSORS = ("rope_freqs.weight", "attn_rot_embd.weight")


def build_norm(config: DecoderConfig, weights: Weights, name: str) -> Norm:
    """The norm NAME over the hidden size."""
    weight = weights.vector(f"{name}.weight", [config.hidden_size])
    if config.row.norm == "rms":
        return RMSNorm(weight, config.norm_eps)
    bias = weights.optional(f"{name}.bias", [config.hidden_size])
    return LayerNorm(weight, bias, config.norm_eps)


def build_ropes(config: DecoderConfig, weights: Weights) -> tuple[RotaryEmbedding, RotaryEmbedding]:
    """The rotations of layers without and with a window (often the same)."""
    pairs = [config.rope.dim // 2]
    device = weights.take("token_embd.weight", [None, None]).device
    # Files of Phi-3 have the tables of longrope whether or not a key says so.
    if config.rope.scaling == "longrope" or "rope_factors_long.weight" in weights:
        short = weights.vector("rope_factors_short.weight", pairs)
        long = weights.vector("rope_factors_long.weight", pairs)
        rope = RotaryEmbedding(config.rope, short, long, device)
    else:
        factors = weights.optional("rope_freqs.weight", pairs)
        rope = RotaryEmbedding(config.rope, factors, device=device)
    if config.local_rope == config.rope:
        return rope, rope
    return rope, RotaryEmbedding(config.local_rope, device=device)


def build_attention(
    config: DecoderConfig, weights: Weights, prefix: str, rope: RotaryEmbedding, window: int
) -> Attention:
    """The attention of a layer; PREFIX is "blk.N."."""
    head_dim, hidden = config.head_dim, config.hidden_size
    q_size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
    if f"{prefix}attn_qkv.weight" in weights:
        qkv = [weights.linear(f"{prefix}attn_qkv", q_size + 2 * kv_size, hidden)]
    else:
        sizes = {"q": q_size, "k": kv_size, "v": kv_size}
        qkv = [weights.linear(f"{prefix}attn_{x}", size, hidden) for x, size in sizes.items()]
    return Attention(
        qkv,
        weights.linear(f"{prefix}attn_output", hidden, q_size),
        rope,
        config.num_heads,
        config.num_kv_heads,
        head_dim,
        scale=config.attention_scale,
        window=window,
        softcap=config.attention_softcap,
        qk_norm=build_qk_norm(config, weights, prefix),
        norm_heads=config.row.qk_norm != "flat",
    )


def build_qk_norm(config: DecoderConfig, weights: Weights, prefix: str) -> tuple[Norm, Norm] | None:
    """The norms of query and key, where the architecture or the file has them."""
    names = [f"{prefix}attn_q_norm.weight", f"{prefix}attn_k_norm.weight"]
    heads = [config.num_heads, config.num_kv_heads]
    kind, dim, eps = config.row.qk_norm, config.head_dim, config.norm_eps
    if kind is None or (kind == "each head" and names[0] not in weights):
        return None
    if kind == "each head":
        q, k = (weights.vector(name, [h, dim]) for name, h in zip(names, heads, strict=True))
        return LayerNorm(q, None, eps), LayerNorm(k, None, eps)
    sizes = [dim, dim] if kind == "head" else [h * dim for h in heads]
    q, k = (weights.vector(name, [size]) for name, size in zip(names, sizes, strict=True))
    return RMSNorm(q, eps), RMSNorm(k, eps)


def build_mlp(config: DecoderConfig, weights: Weights, prefix: str) -> MLP | GatedMLP:
    """The feed-forward network of a layer; without `ffn_gate`, `ffn_up` may hold both halves."""
    hidden, inner, row = config.hidden_size, config.intermediate_size, config.row
    down = weights.linear(f"{prefix}ffn_down", hidden, inner)
    if not row.gated:
        return MLP(weights.linear(f"{prefix}ffn_up", inner, hidden), down, row.activation)
    if f"{prefix}ffn_gate.weight" in weights:
        gate_up = [weights.linear(f"{prefix}ffn_{x}", inner, hidden) for x in ("gate", "up")]
    else:
        gate_up = [weights.linear(f"{prefix}ffn_up", 2 * inner, hidden)]
    return GatedMLP(gate_up, down, row.activation)


class DecoderLayer(nn.Module):
    """Attention and a feed-forward network, each added to the residual stream.

    Called, it is a plain module from hidden states to hidden states. In a `Decoder` where nobody
    looks (`hands_on`), it hands on what it would add last (`delta`, and the norm that it goes
    through before) instead of adding it, so that the next norm can do all of it at once.
    """

    def __init__(
        self, config: DecoderConfig, weights: Weights, index: int, rope: RotaryEmbedding
    ) -> None:
        super().__init__()
        prefix, row = f"blk.{index}.", config.row
        self.attn_norm: Norm = NoNorm()
        self.ffn_norm: Norm | None = NoNorm()
        if row.pre_norm:
            self.attn_norm = build_norm(config, weights, f"{prefix}attn_norm")
            parallel = row.parallel and f"{prefix}ffn_norm.weight" not in weights
            self.ffn_norm = None if parallel else build_norm(config, weights, f"{prefix}ffn_norm")
        self.attn = build_attention(config, weights, prefix, rope, config.windows[index])
        self.mlp = build_mlp(config, weights, prefix)
        self.attn_post_norm: Norm | None = None
        self.ffn_post_norm: Norm | None = None
        if row.post_norm:
            self.attn_post_norm = build_norm(config, weights, f"{prefix}post_attention_norm")
            self.ffn_post_norm = build_norm(config, weights, f"{prefix}post_ffw_norm")
        self.residual_scale = config.residual_scale

    def forward(
        self, x: Tensor, step: Step | None = None, cache: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """x [B, T, C] -> [B, T, C], the input of the next layer.

        Without a step the T tokens stand at the beginning and attend to each other alone. cache:
        keys and values of this layer, as `Attention` takes them.
        """
        return added(*self.deferred(x, None, step or uncached_step(x), cache))

    def deferred(
        self,
        delta: Tensor,
        residual: Tensor | None,
        step: Step,
        cache: tuple[Tensor, Tensor] | None,
        delta_norm: Norm | None = None,
    ) -> tuple[Tensor, Tensor, Norm | None]:
        """delta_norm(delta) [B, T, C], to be added to residual [B, T, C] first -> the next delta,
        residual and delta_norm."""
        block = None if self.ffn_norm is None else self.attn
        x, total = normed_input(self.attn_norm, delta, residual, delta_norm, block)
        attended = self.attn(x, step, cache)
        residual = total_of(x, total)
        delta, delta_norm = self._scaled(attended, self.attn_post_norm)
        if self.ffn_norm is None:  # side by side: both read x, and there are no post norms
            return delta + self._scaled(self.mlp(x), None)[0], residual, None
        x, total = normed_input(self.ffn_norm, delta, residual, delta_norm, self.mlp)
        delta, delta_norm = self._scaled(self.mlp(x), self.ffn_post_norm)
        return delta, total_of(x, total), delta_norm

    def _scaled(self, x: Tensor, norm: Norm | None) -> tuple[Tensor, Norm | None]:
        """A delta and its norm, which cannot wait where a scale follows it."""
        if self.residual_scale == 1:
            return x, norm
        return (x if norm is None else norm(x)) * self.residual_scale, None


def added(delta: Tensor, residual: Tensor | None, delta_norm: Norm | None = None) -> Tensor:
    """The hidden states that a layer handed on in parts; all [..., C]."""
    x = delta if delta_norm is None else delta_norm(delta)
    return x if residual is None else x + residual


def hands_on(layer: nn.Module) -> TypeGuard[DecoderLayer]:
    """Whether a layer may hand on its last addition: it is ours as it was built, and no hook looks
    at what goes into or out of it."""
    return type(layer) is DecoderLayer and not is_looked_at(layer)


class Decoder(nn.Module):
    """Tokens to logits.

    Attributes:
        config: the numbers it was built from.
        token_embd, layers, output_norm, output: its modules; `output` is None where the embedding
            table is the output layer too. A layer may be replaced by any module that is called as
            a `DecoderLayer` is.
    """

    def __init__(
        self, config: DecoderConfig, weights: Weights, dtype: torch.dtype = torch.float32
    ) -> None:
        """Bind the weights.

        Args:
            config: the model.
            weights: its tensors, all of which it must use.
            dtype: the dtype of activations and logits.

        Raises:
            GGUFError: a tensor is missing, has another shape, or has no place in the model.
        """
        super().__init__()
        self.config = config
        self.token_embd = weights.embedding("token_embd", config.hidden_size, dtype)
        rope, local_rope = build_ropes(config, weights)
        self.layers = nn.ModuleList(
            DecoderLayer(config, weights, i, local_rope if config.windows[i] else rope)
            for i in range(config.num_layers)
        )
        self.output_norm = build_norm(config, weights, "output_norm")
        self.output: QuantLinear | None = None
        if "output.weight" in weights:
            self.output = weights.linear("output", self.vocab_size, config.hidden_size)
        weights.finish(IGNORED_TENSORS)

    @property
    def vocab_size(self) -> int:
        return self.token_embd.num_embeddings

    def hidden(self, input_ids: Tensor, step: Step, cache: CachedLayers | None) -> Tensor:
        """input_ids int [B, T] -> the normed output of the last layer [B, T, C]."""
        delta: Tensor = self.token_embd(input_ids)
        if self.config.embedding_scale != 1:
            delta = delta * self.config.embedding_scale
        residual: Tensor | None = None
        delta_norm: Norm | None = None
        for i, layer in enumerate(self.layers):
            kv = None if cache is None else (cache.k[i], cache.v[i])
            if hands_on(layer):
                delta, residual, delta_norm = layer.deferred(delta, residual, step, kv, delta_norm)
            else:
                delta = layer(added(delta, residual, delta_norm), step, kv)
                residual = delta_norm = None
        if residual is None:
            return self.output_norm(delta)
        return self.output_norm.add(delta, residual, delta_norm)[0]

    def logits(self, hidden: Tensor) -> Tensor:
        """hidden [..., C] -> scores of every token [..., V]."""
        scores = self.token_embd.attend(hidden) if self.output is None else self.output(hidden)
        if self.config.logit_scale != 1:
            scores = scores / self.config.logit_scale
        if self.config.final_softcap > 0:
            scores = torch.tanh(scores / self.config.final_softcap) * self.config.final_softcap
        return scores

    def forward(
        self, input_ids: Tensor, cache: KVCache | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """input_ids int [B, T] -> logits [B, T, V].

        With a cache, the tokens follow those that are in it, and are added to them.

        Args:
            input_ids: the tokens.
            cache: keys and values of the tokens before them.
            mask: which keys each token sees, in the place of "itself and those before it": bool
                (True: seen) or float (added to the scores), [T, S], [B, T, S] or [B, H, T, S], of
                the first S keys; later ones are not seen. The window of a layer still holds.
                Attention runs its reference then, plain torch with all scores in memory.

        Raises:
            ValueError: input_ids is no int [B, T], the cache has no room or another batch size, or
                the mask is neither bool nor float or does not fit.
        """
        if input_ids.dim() != 2 or input_ids.shape[1] == 0 or input_ids.is_floating_point():
            raise ValueError(
                f"input_ids must be int [B, T] with T > 0, got {input_ids.dtype} "
                f"{list(input_ids.shape)}"
            )
        if cache is not None and cache.batch_size != input_ids.shape[0]:
            raise ValueError(
                f"the cache holds {cache.batch_size} sequences, input_ids {input_ids.shape[0]}"
            )
        if mask is not None:
            room = input_ids.shape[1] if cache is None else cache.max_seq_len
            mask = attention_mask(mask, input_ids, self.config.num_heads, room)
        step = uncached_step(input_ids) if cache is None else cache.advance(input_ids.shape[1])
        if mask is not None:
            step = replace(step, mask=mask)
        return self.logits(self.hidden(input_ids, step, cache))
