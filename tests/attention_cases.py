"""Calls of `attention` on random tensors, and what they should give, in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from rocmforge_torch.ops import reference
from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME

PLAIN = {
    "f32": torch.float32,
    "f16": torch.float16,
    "bf16": torch.bfloat16,
    "e4m3": torch.float8_e4m3fn,
    "e5m2": torch.float8_e5m2,
}
BLOCKS = {"q8_0": "Q8_0", "q4_0": "Q4_0"}
FORMATS = (*PLAIN, *BLOCKS)


def encode(x: Tensor, name: str) -> Tensor:
    """Values [..., D] as a cache of that format holds them."""
    if name in PLAIN:
        return x.to(PLAIN[name])
    return reference.quantize(x.contiguous(), QUANT_TYPES_BY_NAME[BLOCKS[name]].id)


def decode(cache: Tensor, name: str) -> Tensor:
    if name in PLAIN:
        return cache.float()
    return reference.dequantize(cache, QUANT_TYPES_BY_NAME[BLOCKS[name]].id)


@dataclass(frozen=True)
class Case:
    """Shapes and options of a call. block_size 0: a contiguous cache of `keys` positions."""

    seq_lens: tuple[int, ...] = (50, 23)
    queries: int = 1
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    value_dim: int | None = None
    q_dtype: torch.dtype = torch.float16
    k_format: str = "f16"
    v_format: str | None = None
    keys: int | None = None
    block_size: int = 0
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def formats(self) -> tuple[str, str]:
        return self.k_format, self.v_format or self.k_format

    def __str__(self) -> str:
        parts = [str(self.q_dtype).removeprefix("torch."), "/".join(self.formats)]
        parts.append(f"{self.queries}x{self.heads}/{self.kv_heads}")
        parts.append(f"{self.head_dim}-{self.value_dim or self.head_dim}")
        parts.append("+".join(map(str, self.seq_lens)))
        if self.block_size:
            parts.append(f"pages{self.block_size}")
        return " ".join([*parts, *self.options])


@dataclass
class Call:
    """Arguments of the op, and the result in float64."""

    q: Tensor
    k: Tensor
    v: Tensor
    seq_lens: Tensor
    table: Tensor | None
    options: dict[str, Any]
    wanted: Tensor
    largest_value: float


def make(case: Case, seed: int = 0) -> Call:
    """What no key stands in is NaN in every format; table entries that no key needs are -1."""
    random = torch.Generator().manual_seed(seed)
    batch, keys = len(case.seq_lens), case.keys or max(*case.seq_lens, 1)
    q = torch.randn(batch, case.queries, case.heads, case.head_dim, generator=random)
    q = q.to(case.q_dtype)
    caches, values = [], []
    dims = case.head_dim, case.value_dim or case.head_dim
    for dim, name in zip(dims, case.formats, strict=True):
        cache = encode(torch.randn(batch, keys, case.kv_heads, dim, generator=random), name)
        values.append(decode(cache, name).double())
        for b, length in enumerate(case.seq_lens):
            cache[b, length:].view(torch.uint8).fill_(0xFF)
        caches.append(cache)
    lens = torch.tensor(case.seq_lens, dtype=torch.int32)
    table = None
    if case.block_size:
        table, caches = paged(caches, case.seq_lens, case.block_size, random)
    options = {k: v.clone() if isinstance(v, Tensor) else v for k, v in case.options.items()}
    wanted = oracle(q.double(), *values, case.seq_lens, **options)
    largest = max(
        [
            float(values[1][b, :length].abs().max())
            for b, length in enumerate(case.seq_lens)
            if length
        ],
        default=0.0,
    )
    return Call(q, *caches, lens, table, options, wanted, largest)


def paged(
    caches: list[Tensor], seq_lens: Sequence[int], size: int, random: torch.Generator
) -> tuple[Tensor, list[Tensor]]:
    """The caches cut into pages in random order, among pages of NaN."""
    batch, keys = caches[0].shape[:2]
    count = -(-keys // size)
    order = torch.randperm(batch * count + 2, generator=random)
    table = order[: batch * count].reshape(batch, count)
    cut = []
    for cache in caches:
        bits = cache.view(torch.uint8)
        whole = torch.full((batch, count * size, *bits.shape[2:]), 0xFF, dtype=torch.uint8)
        whole[:, :keys] = bits
        pages = torch.full((len(order), size, *bits.shape[2:]), 0xFF, dtype=torch.uint8)
        pages[table.flatten()] = whole.view(batch * count, size, *bits.shape[2:])
        cut.append(pages.view(cache.dtype))
    used = torch.arange(count) * size < torch.tensor(seq_lens)[:, None]
    return table.where(used, -1).int(), cut


def oracle(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    seq_lens: Sequence[int],
    scale: float | None = None,
    causal: bool = True,
    window: int = 0,
    softcap: float = 0.0,
    sinks: Tensor | None = None,
    alibi_slopes: Tensor | None = None,
) -> Tensor:
    """Sequence by sequence in float64, from the words of the schema."""
    batch, queries, heads, head_dim = q.shape
    group = heads // k.shape[2]
    out = q.new_zeros(batch, queries, heads, v.shape[3])
    for b, length in enumerate(seq_lens):
        if length == 0:
            continue
        position = torch.arange(queries)[:, None] + length - queries
        distance = torch.arange(length) - position  # [T, S]
        seen = torch.ones_like(distance, dtype=torch.bool)
        if causal:
            seen &= distance <= 0
        if window:
            seen &= distance > -window
        for h in range(heads):
            score = q[b, :, h] @ k[b, :length, h // group].T
            score = score * (head_dim**-0.5 if scale is None else scale)
            if softcap:
                score = softcap * torch.tanh(score / softcap)
            if alibi_slopes is not None:
                score = score + alibi_slopes[h].double() * distance
            score = score.masked_fill(~seen, float("-inf"))
            top = score.amax(-1, keepdim=True)
            if sinks is not None:
                top = top.clamp(min=float(sinks[h]))
            top = top.where(top > float("-inf"), 0)
            weight = (score - top).exp()
            total = weight.sum(-1, keepdim=True)
            if sinks is not None:
                total = total + (sinks[h].double() - top).exp()
            out[b, :, h] = weight @ v[b, :length, h // group] / total.where(total > 0, 1)
    return out


# The unit of rounding of what matrix units multiply; float32 arithmetic otherwise.
ROUNDING = {torch.float32: 2.0**-19, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def arithmetic(case: Case, exact: bool = False) -> torch.dtype:
    """What scores and weighted values are multiplied in."""
    if exact or case.q_dtype == torch.float32 or "f32" in case.formats:
        return torch.float32
    return torch.bfloat16 if "bf16" in case.formats else torch.float16


def assert_right(got: Tensor, case: Case, call: Call, exact: bool = False) -> None:
    """Within the rounding of operands, weights and result.

    An operand's rounding changes a score by its unit times a number of about 1, the weights' a
    result by theirs times the largest value.
    """
    unit = ROUNDING[arithmetic(case, exact)]
    assert got.dtype == case.q_dtype
    assert got.shape == call.wanted.shape
    error = (got.double() - call.wanted).abs()
    allowed = 4 * unit * call.largest_value + torch.finfo(case.q_dtype).eps * call.wanted.abs()
    assert not got.isnan().any(), f"{case}: NaN"
    worst = float((error / allowed.clamp(min=1e-30)).max()) if error.numel() else 0.0
    assert worst <= 1, f"{case}: error {float(error.max()):.3g} is {worst:.3g} times the allowed"
