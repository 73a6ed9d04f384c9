"""A numerical test of every op on a device: a small case, computed by the op and by its reference.

The cases are few and fixed, so that `rocmforge doctor` answers in seconds; the tests of the package
are where every type and shape is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..config import config
from ..ops import reference
from ..ops.reference.cache_formats import CACHE_FORMATS
from ..ops.reference.quants.registry import FORMATS
from ..quant_types import QUANT_TYPES

EXACT = 0.0  # not one bit may differ
FLOAT = 1e-10  # NMSE of float32 sums in another order
INTEGER = 1e-4  # NMSE of products with activations rounded to 8 bits
GATED = 4 * INTEGER  # NMSE of two such products, multiplied
SEED = 20
ROWS, FEATURES = 160, 512  # of the weight matrices


@dataclass(frozen=True)
class Case:
    """Arguments of one op; `limit` bounds the NMSE of the result against the reference's."""

    name: str
    args: tuple[Any, ...]
    limit: float
    in_place: tuple[int, ...] = ()  # arguments that the op writes to, compared beside its results


@dataclass(frozen=True)
class Outcome:
    """How far an op is from its reference, or why it could not run."""

    op: str
    cases: int
    error: float
    limit: float
    problem: str | None = None

    @property
    def passed(self) -> bool:
        return self.problem is None


def run(op: str, device: str) -> Outcome:
    """Run every case of `op` on `device`; stops at the first that fails."""
    worst, limit, done = 0.0, 0.0, 0
    for case in CASES[op](torch.Generator().manual_seed(SEED)):
        try:
            error = _error(op, case, device)
        except Exception as failure:  # a broken kernel must not hide the other ops' results
            problem = f"{case.name}: {str(failure).strip().partition(chr(10))[0]}"
            return Outcome(op, done, worst, case.limit, problem)
        done += 1
        limit = max(limit, case.limit)
        worst = max(worst, error)
        if not error <= case.limit:
            problem = f"{case.name}: error {error:.1e} exceeds {case.limit:.0e}"
            return Outcome(op, done, error, case.limit, problem)
    return Outcome(op, done, worst, limit)


def _error(op: str, case: Case, device: str) -> float:
    expected = _call(getattr(reference, op), case, "cpu")
    got = _call(getattr(torch.ops.rocmforge, op), case, device)
    return max(_nmse(a, b, exact=case.limit == EXACT) for a, b in zip(got, expected, strict=True))


def _call(function: Callable[..., Any], case: Case, device: str) -> list[Tensor]:
    args = [a.to(device, copy=True) if isinstance(a, Tensor) else a for a in case.args]
    result = function(*args)
    results = result if isinstance(result, tuple) else (result,)
    written = [args[index] for index in case.in_place]
    return [t.cpu() for t in (*written, *results) if t is not None]


def _nmse(got: Tensor, expected: Tensor, exact: bool) -> float:
    """Squared error over squared size; infinite where shapes, dtypes or finiteness differ."""
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return float("inf")
    if exact:
        if got.itemsize == 1:  # torch cannot compare 8-bit floats
            got, expected = got.view(torch.uint8), expected.view(torch.uint8)
        return 0.0 if torch.equal(got, expected) else float("inf")
    a, b = got.double(), expected.double()
    error = float((a - b).square().sum() / b.square().sum())
    return error if error == error else float("inf")


@cache
def _blocks(qtype: int) -> Tensor:
    """A matrix [ROWS, FEATURES] in blocks of random bytes under tame scales."""
    row = QUANT_TYPES[qtype]
    gen = torch.Generator().manual_seed(SEED)
    if not row.is_quantized:
        return reference.quantize(torch.randn(ROWS, FEATURES, generator=gen), qtype)
    blocks = ROWS * FEATURES // row.block_size
    codes = torch.randint(0, 256, (16 * blocks, row.block_bytes), dtype=torch.uint8, generator=gen)
    # Random bytes are wild scales now and then; keep the blocks that are not.
    largest = reference.dequantize(codes, qtype).abs().amax(-1)
    good = codes[(largest > 1e-2) & (largest < 1e2)]
    return good[torch.arange(blocks) % len(good)].view(ROWS, -1)


def _formats() -> Iterator[tuple[str, int, Tensor]]:
    """(name, number, weight matrix) of every type."""
    for qtype in sorted(FORMATS):
        yield QUANT_TYPES[qtype].name, qtype, _blocks(qtype)


def _dequantize(gen: torch.Generator) -> Iterator[Case]:
    for name, qtype, qweight in _formats():
        yield Case(name, (qweight, qtype, torch.float32), EXACT)


def _quantize(gen: torch.Generator) -> Iterator[Case]:
    for qtype in sorted(reference.QUANTIZABLE):
        x = torch.randn(4, FEATURES, generator=gen)
        yield Case(QUANT_TYPES[qtype].name, (x, qtype), EXACT)


def _quant_matmul(gen: torch.Generator) -> Iterator[Case]:
    limit = FLOAT if config.exact else INTEGER
    for name, qtype, qweight in _formats():
        for rows in (1, 2, 40):  # kernels differ by the number of rows
            x = torch.randn(rows, FEATURES, generator=gen)
            yield Case(f"{name}, {rows} rows", (x, qweight, qtype), limit)


def _quant_matmul_transposed(gen: torch.Generator) -> Iterator[Case]:
    for name, qtype, qweight in _formats():
        yield Case(name, (torch.randn(3, ROWS, generator=gen), qweight, qtype), FLOAT)


def _quant_matmul_gated(gen: torch.Generator) -> Iterator[Case]:
    limit = FLOAT if config.exact else GATED
    for name, qtype, qweight in _formats():
        for rows, act in ((1, "silu"), (40, "gelu")):
            x = torch.randn(rows, FEATURES, generator=gen) / FEATURES**0.5
            yield Case(f"{name}, {rows} rows, {act}", (x, qweight, qtype, act), limit)


def _quant_embedding(gen: torch.Generator) -> Iterator[Case]:
    for name, qtype, qweight in _formats():
        ids = torch.randint(0, ROWS, (5,), generator=gen)
        yield Case(name, (ids, qweight, qtype, torch.float32), EXACT)


def _pack_weight(gen: torch.Generator) -> Iterator[Case]:
    for name, qtype, qweight in _formats():
        yield Case(name, (qweight, qtype), EXACT)


def _rms_norm(gen: torch.Generator) -> Iterator[Case]:
    x, weight = torch.randn(3, 640, generator=gen), torch.rand(640, generator=gen)
    yield Case("weighted", (x, weight, 1e-6), FLOAT)
    yield Case("plain", (x, None, 1e-6), FLOAT)


def _add_rms_norm(gen: torch.Generator) -> Iterator[Case]:
    x, residual = torch.randn(2, 3, 640, generator=gen)
    yield Case("weighted", (x, residual, torch.rand(640, generator=gen), 1e-6), FLOAT)


def _rope(gen: torch.Generator) -> Iterator[Case]:
    x = torch.randn(1, 4, 2, 64, generator=gen)
    inv_freq = 10000.0 ** -(torch.arange(24) / 24)  # 48 of the 64 dimensions turn
    for interleaved in (False, True):
        args = (x, torch.arange(100, 104), inv_freq, interleaved, 1.0)
        yield Case("pairs" if interleaved else "halves", args, 1e-8)


def _gated(gen: torch.Generator) -> Iterator[Case]:
    gate, up = torch.randn(2, 3, 100, generator=gen)
    yield Case("float32", (gate, up), FLOAT)


def _accumulate(gen: torch.Generator) -> Iterator[Case]:
    dst, src = torch.randn(8, 5, generator=gen), torch.randn(3, 5, generator=gen)
    yield Case("float32", (dst, src, torch.tensor(4)), EXACT, in_place=(0,))


def _kv_cache_write(gen: torch.Generator) -> Iterator[Case]:
    for name, stored in CACHE_FORMATS.items():
        k_cache, v_cache = stored.encode(torch.zeros(2, 2, 8, 2, 32))
        k, v = torch.randn(2, 3, 2, 32, generator=gen)
        slots = torch.tensor([9, -1, 3])
        yield Case(name, (k_cache, v_cache, k, v, slots), EXACT, in_place=(0, 1))


def _rope_kv_cache_write(gen: torch.Generator) -> Iterator[Case]:
    k_cache, v_cache = torch.zeros(2, 2, 8, 2, 32)
    q, k, v = (torch.randn(3, heads, 32, generator=gen) for heads in (4, 2, 2))
    inv_freq = 10000.0 ** -(torch.arange(12) / 12)
    places = torch.tensor([9, -1, 3]), torch.arange(100, 103), inv_freq
    q_norm, k_norm = torch.rand(2, 32, generator=gen)
    args = (k_cache, v_cache, q, k, v, *places)
    yield Case("halves", args, 1e-8, in_place=(0, 1))
    yield Case("pairs, normed", (*args, True, 1.0, q_norm, k_norm, 1e-6), 1e-8, in_place=(0, 1))


def _norm_quant_matmul(gen: torch.Generator) -> Iterator[Case]:
    limits = {"none": INTEGER, "silu": GATED, "gelu": GATED}
    weight = torch.rand(FEATURES, generator=gen) / FEATURES**0.5
    for (name, qtype, qweight), act in zip(_formats(), 10 * [*limits], strict=False):
        for rows in (1, 40):
            x, residual = torch.randn(2, rows, FEATURES, generator=gen)
            args = (x, weight, 1e-6, qweight, qtype, act, None, 0, residual)
            yield Case(f"{name}, {rows} rows, {act}", args, FLOAT if config.exact else limits[act])


def _attention(gen: torch.Generator) -> Iterator[Case]:
    q = torch.randn(2, 3, 4, 32, generator=gen)
    k, v = torch.randn(2, 2, 20, 2, 32, generator=gen)
    seq_lens = torch.tensor([20, 11], dtype=torch.int32)
    yield Case("grouped", (q, k, v, seq_lens), 1e-9)
    sinks = torch.randn(4, generator=gen)
    args = (q, k, v, seq_lens, None, 0.2, True, 5, 30.0, sinks)
    yield Case("window, softcap, sinks", args, 1e-9)
    for name, stored in CACHE_FORMATS.items():
        yield Case(name, (q, stored.encode(k), stored.encode(v), seq_lens), 1e-9)


def _sample(gen: torch.Generator) -> Iterator[Case]:
    logits = 3 * torch.randn(3, 1000, generator=gen)
    args = (
        logits,
        torch.tensor([0.0, 0.8, 1.5]),
        torch.tensor([40, 40, 0]),
        torch.tensor([0.95, 0.95, 1.0]),
        torch.tensor([0.05, 0.05, 0.0]),
        torch.tensor([1, 2, 3]),
        torch.tensor([0, 1, 2]),
    )
    yield Case("greedy and random", args, EXACT)


CASES: dict[str, Callable[[torch.Generator], Iterator[Case]]] = {
    "dequantize": _dequantize,
    "quantize": _quantize,
    "quant_matmul": _quant_matmul,
    "quant_matmul_transposed": _quant_matmul_transposed,
    "quant_matmul_gated": _quant_matmul_gated,
    "norm_quant_matmul": _norm_quant_matmul,
    "quant_embedding": _quant_embedding,
    "pack_weight": _pack_weight,
    "unpack_weight": _pack_weight,  # any bytes of the right size are a packed weight
    "rms_norm": _rms_norm,
    "add_rms_norm": _add_rms_norm,
    "rope": _rope,
    "silu_mul": _gated,
    "gelu_mul": _gated,
    "accumulate_": _accumulate,
    "kv_cache_write_": _kv_cache_write,
    "rope_kv_cache_write_": _rope_kv_cache_write,
    "attention": _attention,
    "sample": _sample,
}
