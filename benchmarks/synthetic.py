"""Writes GGUF models of any size: real shapes and keys, random weights, fast.

usage: python -m benchmarks.synthetic OUT [--type Q4_0] [--preset llama-8b] [--gib N] [--layers N]

For timing, and for comparing devices with each other: the weights are Gaussian noise of a size that
keeps activations ordinary, and mean nothing. --gib takes as many layers as fill so much.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import gguf
import numpy as np
import torch

import rocmforge_torch  # noqa: F401  (registers the operators)
from rocmforge_torch.quant_types import QuantType, quant_type

POOL_ELEMENTS = 1 << 20  # as many different numbers a tensor has, repeated from random places
CONTEXT = 8192
Kind = Literal["matrix", "norm", "bias"]


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder; `tied` leaves out the output layer."""

    architecture: str
    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False


PRESETS = {
    "llama-8b": Shape("llama", 32, 4096, 14336, 32, 8, 128, 128256),
    "llama-1b": Shape("llama", 16, 2048, 8192, 32, 8, 64, 128256, tied=True),
    "llama-small": Shape("llama", 4, 512, 1024, 8, 4, 64, 2048),
    "gemma3-small": Shape("gemma3", 7, 512, 1024, 4, 2, 128, 2048, tied=True),
    "qwen2-small": Shape("qwen2", 4, 512, 1024, 8, 2, 64, 2048),
    "qwen3-small": Shape("qwen3", 4, 512, 1024, 8, 2, 64, 2048),
}


@dataclass(frozen=True)
class Plan:
    """One tensor to be written."""

    name: str
    shape: tuple[int, ...]
    kind: Kind


def tensor_plans(shape: Shape) -> Iterator[Plan]:
    """Every tensor of a model, in the order of its file."""
    hidden, inner = shape.hidden, shape.inner
    q_size, kv_size = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield Plan("token_embd.weight", (shape.vocab, hidden), "matrix")
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        yield Plan(f"{block}attn_norm.weight", (hidden,), "norm")
        for name, size in (("q", q_size), ("k", kv_size), ("v", kv_size)):
            yield Plan(f"{block}attn_{name}.weight", (size, hidden), "matrix")
            if shape.architecture == "qwen2":
                yield Plan(f"{block}attn_{name}.bias", (size,), "bias")
        if shape.architecture in ("qwen3", "gemma3"):
            for name in ("q", "k"):
                yield Plan(f"{block}attn_{name}_norm.weight", (shape.head_dim,), "norm")
        yield Plan(f"{block}attn_output.weight", (hidden, q_size), "matrix")
        if shape.architecture == "gemma3":
            yield Plan(f"{block}post_attention_norm.weight", (hidden,), "norm")
            yield Plan(f"{block}post_ffw_norm.weight", (hidden,), "norm")
        yield Plan(f"{block}ffn_norm.weight", (hidden,), "norm")
        yield Plan(f"{block}ffn_gate.weight", (inner, hidden), "matrix")
        yield Plan(f"{block}ffn_up.weight", (inner, hidden), "matrix")
        yield Plan(f"{block}ffn_down.weight", (hidden, inner), "matrix")
    yield Plan("output_norm.weight", (hidden,), "norm")
    if not shape.tied:
        yield Plan("output.weight", (shape.vocab, hidden), "matrix")


class RandomBlocks:
    """Blocks of a type, from a pool of quantized Gaussian numbers of deviation 1."""

    def __init__(self, kind: QuantType, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        elements = POOL_ELEMENTS // kind.block_size * kind.block_size
        numbers = torch.randn(elements // kind.block_size, kind.block_size, generator=generator)
        self._kind = kind
        self._numbers = numbers
        self._random = np.random.default_rng(seed)
        self._pools: dict[float, np.ndarray] = {}

    def matrix(self, shape: tuple[int, ...], deviation: float) -> np.ndarray:
        """uint8 [*shape[:-1], row_bytes] of numbers with a deviation."""
        pool = self._pools.get(deviation)
        if pool is None:
            blocks = torch.ops.rocmforge.quantize(self._numbers * deviation, self._kind.id)
            pool = self._pools[deviation] = blocks.numpy()
        count = math.prod(shape) // self._kind.block_size
        start = int(self._random.integers(len(pool)))
        copies = -(-count // len(pool))
        blocks = np.concatenate([pool[start:], *[pool] * copies])[:count]
        return blocks.reshape(*shape[:-1], -1)

    def vector(self, size: int, mean: float, deviation: float) -> np.ndarray:
        return (mean + deviation * self._random.standard_normal(size)).astype(np.float32)


def model_bytes(shape: Shape, qtype: str) -> int:
    """Bytes of the tensors of a model."""
    kind = quant_type(qtype)
    return sum(
        math.prod(plan.shape) // kind.block_size * kind.block_bytes
        if plan.kind == "matrix"
        else 4 * math.prod(plan.shape)
        for plan in tensor_plans(shape)
    )


def write_model(path: Path, shape: Shape, qtype: str = "Q4_0", seed: int = 0) -> Path:
    """Write a model whose matrices are of one type; a type that `quantize` can write."""
    kind = quant_type(qtype)
    raw = gguf.GGMLQuantizationType(kind.id)
    writer = gguf.GGUFWriter(path, shape.architecture)
    _add_keys(writer, shape)
    plans = list(tensor_plans(shape))
    for plan in plans:
        if plan.kind == "matrix":
            row = plan.shape[-1] // kind.block_size * kind.block_bytes
            sizes = (*plan.shape[:-1], row)
            writer.add_tensor_info(plan.name, sizes, np.dtype(np.uint8), math.prod(sizes), raw)
        else:
            nbytes = 4 * math.prod(plan.shape)
            writer.add_tensor_info(plan.name, plan.shape, np.dtype(np.float32), nbytes)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    blocks = RandomBlocks(kind, seed)
    for plan in plans:
        if plan.kind == "matrix":
            writer.write_tensor_data(blocks.matrix(plan.shape, _deviation(plan, shape)))
        else:
            writer.write_tensor_data(blocks.vector(plan.shape[0], _mean(plan, shape), 0.2))
    writer.close()
    return path


def _deviation(plan: Plan, shape: Shape) -> float:
    """Rows of K numbers of deviation 1/sqrt(K) keep the size of what they multiply."""
    if plan.name != "token_embd.weight":
        return 1.5 / math.sqrt(plan.shape[-1])
    # A tied table finds its own rows again, unless the layers add far more than they are.
    return 0.2 / math.sqrt(plan.shape[-1]) if shape.tied else 1.0


def _mean(plan: Plan, shape: Shape) -> float:
    if plan.name == "output_norm.weight" and shape.tied:
        return 7.5  # the table is that much smaller
    return 1.0 if plan.kind == "norm" else 0.0


def _add_keys(writer: gguf.GGUFWriter, shape: Shape) -> None:
    writer.add_context_length(CONTEXT)
    writer.add_block_count(shape.layers)
    writer.add_embedding_length(shape.hidden)
    writer.add_feed_forward_length(shape.inner)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500000.0)
    writer.add_vocab_size(shape.vocab)
    if shape.architecture == "gemma3":
        writer.add_sliding_window(64)


def fill(shape: Shape, qtype: str, nbytes: float) -> Shape:
    """The shape with as many layers as come nearest to `nbytes`."""
    one = model_bytes(replace(shape, layers=1), qtype)
    layer = model_bytes(replace(shape, layers=2), qtype) - one
    return replace(shape, layers=max(1, 1 + round((nbytes - one) / layer)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", default="Q4_0")
    parser.add_argument("--preset", choices=PRESETS, default="llama-8b")
    parser.add_argument("--layers", type=int)
    parser.add_argument("--gib", type=float)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    shape = PRESETS[args.preset]
    if args.layers:
        shape = replace(shape, layers=args.layers)
    if args.gib:
        shape = fill(shape, args.type, args.gib * 2**30)
    write_model(args.out, shape, args.type, args.seed)
    print(f"{args.out}: {args.preset}, {shape.layers} layers, {args.out.stat().st_size} bytes")


if __name__ == "__main__":
    main()
