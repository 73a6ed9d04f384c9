"""A few types of each family; every type and many shapes are tried in test_quant_matmul_cpu.py."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from quant_blocks import random_blocks
from torch import Tensor

from rocmforge_torch.ops.reference import pack_weight
from rocmforge_torch.quant_types import quant_type

from .base import FLOATS, BadSample, BadSamples, Sample, Samples, randn, strided
from .norm import bad_add_rms_norm

TYPES = ("F32", "BF16", "Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_XS", "MXFP4")
Q4_0 = quant_type("Q4_0").id


def weights(name: str, rows: int, blocks: int) -> tuple[Tensor, int]:
    """(qweight [rows, row_bytes], K) with values of about 1."""
    row = quant_type(name)
    if not row.is_quantized:
        blocks *= 32
    data = torch.from_numpy(random_blocks(row, rows * blocks))
    return data.reshape(rows, -1), blocks * row.block_size


def dequantize() -> Iterator[Sample]:
    for name in TYPES:
        qweight, _ = weights(name, 3, 2)
        yield Sample((qweight, quant_type(name).id, torch.float32), name=name)
    qweight, _ = weights("Q4_0", 6, 4)
    for dtype in FLOATS:
        yield Sample((qweight.reshape(2, 3, -1), Q4_0, dtype), name=f"{dtype}")
    yield Sample((qweight[::2, 18:-18], Q4_0, torch.float32), name="rows apart")
    yield Sample((qweight[:0], Q4_0, torch.float32), name="no rows")


def quantize() -> Iterator[Sample]:
    for name in ("F16", "Q4_0", "Q8_0", "Q5_1", "TQ2_0", "MXFP4"):
        yield Sample((randn(3, 512), quant_type(name).id), name=name)
    for dtype in FLOATS:
        yield Sample((randn(2, 3, 64, dtype=dtype), Q4_0), name=f"{dtype}")
    yield Sample((strided(4, 96), Q4_0), name="rows apart")
    yield Sample((randn(64, 4).T, Q4_0), name="columns")
    yield Sample((randn(0, 32), Q4_0), name="no rows")


def quant_matmul() -> Iterator[Sample]:
    for name in TYPES:
        qweight, k = weights(name, 17, 2)
        for rows in (1, 5):
            yield Sample((randn(rows, k), qweight, quant_type(name).id), name=name)
    qweight, k = weights("Q4_0", 10, 4)
    for dtype in FLOATS:
        x = randn(2, 3, k, dtype=dtype)
        yield Sample((x, qweight, Q4_0, randn(10, dtype=dtype)), name=f"{dtype} and bias")
        yield Sample((x, qweight, Q4_0, randn(10)), name=f"{dtype} and float32 bias")
    yield Sample((randn(k), qweight, Q4_0), name="vector")
    yield Sample((strided(3, k), qweight, Q4_0), name="rows apart")
    yield Sample((randn(k, 3).T, qweight[::2], Q4_0), name="columns, weight rows apart")
    yield Sample((randn(0, k), qweight, Q4_0), name="no rows")


def packed() -> Iterator[Sample]:
    """(x, qweight, qtype) whose qweight is in layout 1."""
    for name in TYPES:
        qweight, k = weights(name, 18, 2)
        qtype = quant_type(name).id
        for rows in (1, 5):
            yield Sample((randn(rows, k), pack_weight(qweight, qtype), qtype), name=name)


def quant_matmul_in_both_layouts() -> Iterator[Sample]:
    yield from quant_matmul()
    for sample in packed():
        yield Sample((*sample.args, None, 1), name=f"{sample.name}, packed")


def quant_matmul_gated() -> Iterator[Sample]:
    for i, name in enumerate(TYPES):
        qweight, k = weights(name, 34, 2)
        act = ("silu", "gelu")[i % 2]
        for rows in (1, 2, 5):
            yield Sample((randn(rows, k) / k, qweight, quant_type(name).id, act), name=name)
    qweight, k = weights("Q4_0", 20, 4)
    for dtype in FLOATS:
        for act in ("silu", "gelu"):
            x = randn(2, 3, k, dtype=dtype) / 16
            for bias in (randn(20, dtype=dtype), randn(20)):
                yield Sample((x, qweight, Q4_0, act, bias), name=f"{dtype}, bias {bias.dtype}")
    yield Sample((randn(k), qweight, Q4_0, "silu"), name="vector")
    yield Sample((strided(3, k), qweight, Q4_0, "silu"), name="rows apart")
    yield Sample((randn(k, 3).T, qweight[::2], Q4_0, "gelu"), name="columns, weight rows apart")
    yield Sample((randn(0, k), qweight, Q4_0, "silu"), name="no rows")
    yield Sample((randn(3, k), qweight[:0], Q4_0, "silu"), name="no weight rows")
    for sample in packed():
        yield Sample((*sample.args, "silu", None, 1), name=f"{sample.name}, packed")


def norm_quant_matmul() -> Iterator[Sample]:
    """The product's samples under a norm, in each of its forms by turns."""
    for i, sample in enumerate([*quant_matmul_in_both_layouts(), *quant_matmul_gated()]):
        x, qweight, qtype, *rest = sample.args
        act = [rest.pop(0)] if rest and isinstance(rest[0], str) else ["none"]
        bias, layout = rest[0] if rest else None, rest[1] if len(rest) > 1 else 0
        weight = [randn(x.shape[-1]).to(x.dtype), None][i % 2]
        x_weight = [None, randn(x.shape[-1]).to(x.dtype)][i // 2 % 2]
        residual = [torch.randn_like(x), None, torch.randn_like(x)][i % 3]
        args = (x, weight, 1e-5, qweight, qtype, *act, bias, layout, residual, x_weight)
        yield Sample(args, name=sample.name)


def quant_matmul_transposed() -> Iterator[Sample]:
    for sample in quant_matmul():
        x, qweight, qtype = sample.args[:3]
        g = randn(*x.shape[:-1], qweight.shape[0], dtype=x.dtype)
        yield Sample((g, qweight, qtype), name=sample.name)


def quant_embedding() -> Iterator[Sample]:
    for name in TYPES:
        qweight, _ = weights(name, 20, 1)
        ids = torch.randint(0, 20, (2, 3))
        yield Sample((ids, qweight, quant_type(name).id, torch.float32), name=name)
    for dtype in FLOATS:
        yield Sample((ids.int(), *weights("Q4_0", 20, 2)[:1], Q4_0, dtype), name=f"{dtype}")
    qweight, _ = weights("Q4_0", 20, 2)
    yield Sample((torch.tensor(3), qweight[1::2], Q4_0, torch.float32), name="one id")
    yield Sample((ids[:, ::2], qweight, Q4_0, torch.float32), name="strided ids")
    yield Sample((ids[:0], qweight, Q4_0, torch.float32), name="no ids")


def repack() -> Iterator[Sample]:
    for name in TYPES:
        qweight, _ = weights(name, 3, 2)
        yield Sample((qweight, quant_type(name).id), name=name)
    qweight, _ = weights("Q4_0", 6, 4)
    yield Sample((qweight[::2, 18:-18], Q4_0), name="rows apart")
    yield Sample((qweight[:0], Q4_0), name="no rows")


def bad_weights(
    before: tuple[object, ...], after: tuple[object, ...], argument: str = "qweight"
) -> Iterator[BadSample]:
    """What every op refuses in (qweight, qtype), as arguments after `before`."""
    qweight, _ = weights("Q4_0", 10, 2)
    wide = qweight.repeat(1, 2)
    yield BadSample((*before, qweight, 999, *after), "qtype 999 is not a GGML type")
    yield BadSample((*before, qweight, 24, *after), "qtype 24 is not a GGML type of floating")
    yield BadSample((*before, qweight.char(), Q4_0, *after), f"{argument} must be uint8, got")
    match = f"{argument} rows .* 18 bytes .*got 35"
    yield BadSample((*before, qweight[:, 1:], Q4_0, *after), match)
    yield BadSample((*before, wide[:, ::2], Q4_0, *after), f"{argument} rows must be contiguous")


def bad_dequantize() -> Iterator[BadSample]:
    yield from bad_weights((), (torch.float32,))
    qweight, _ = weights("Q4_0", 10, 2)
    yield BadSample((qweight, Q4_0, torch.float64), "dtype must be .*float32.*got .*float64")
    scalar = torch.tensor(1, dtype=torch.uint8)
    yield BadSample((scalar, Q4_0, torch.float32), "qweight must have at least 1 dim")


def bad_quantize() -> Iterator[BadSample]:
    yield BadSample((randn(2, 33), Q4_0), "last dimension of x must be .* 32, got 33")
    yield BadSample((randn(2, 32).double(), Q4_0), "x must be float32 or")
    yield BadSample((torch.tensor(1.0), Q4_0), "x must have at least 1 dim")
    yield BadSample((randn(2, 32), 999), "qtype 999 is not a GGML type")
    yield BadSample((randn(2, 256), quant_type("IQ2_XXS").id), "IQ2_XXS has no quantizer")


def bad_product(argument: str, act: tuple[str, ...]) -> Iterator[BadSample]:
    """What products refuse; `act`: what stands between qtype and bias."""
    yield from bad_weights((randn(2, 64),), act, argument)
    qweight, k = weights("Q4_0", 10, 2)
    x = randn(2, k)
    good = (qweight, Q4_0, *act)
    yield BadSample((x, qweight[0], Q4_0, *act), f"{argument} must have 2 dimensions")
    yield BadSample((x.double(), *good), "x must be float32 or")
    yield BadSample((x.to(torch.complex64), *good), "x must be .* got complex64")
    yield BadSample((torch.tensor(1.0), *good), "x must have at least 1 dim")
    yield BadSample((x[:, 1:], *good), f"x has 63 features but .*{argument} holds 64")
    yield BadSample((x, *good, None, 2), "layout must be 0")
    yield BadSample(
        (x, qweight[::2][:4], Q4_0, *act, None, 1), f"{argument} must be contiguous in layout 1"
    )
    yield BadSample((x, *good, randn(9)), r"bias must have shape \[10\], got \[9\]")
    yield BadSample((x, *good, randn(10).half()), "bias must be .*got .*float16")


def bad_quant_matmul() -> Iterator[BadSample]:
    yield from bad_product("qweight", ())


def bad_quant_matmul_gated() -> Iterator[BadSample]:
    yield from bad_product("qweight_gate_up", ("silu",))
    qweight, k = weights("Q4_0", 10, 2)
    x = randn(2, k)
    for act in ("relu", "SILU", ""):
        yield BadSample((x, qweight, Q4_0, act), f"act must be silu or gelu, got {act}")
    yield BadSample((x, qweight[1:], Q4_0, "silu"), "qweight_gate_up .*even .* got 9")


def bad_norm_quant_matmul() -> Iterator[BadSample]:
    for bad in bad_product("qweight", ("none",)):
        x, *rest = bad.args
        yield BadSample((x, None, 1e-5, *rest), bad.match)
    qweight, k = weights("Q4_0", 10, 2)
    for bad in bad_add_rms_norm():
        x, residual, weight, eps, *x_weight = bad.args
        args = (x, weight, eps, qweight, Q4_0, "none", None, 0, residual, *x_weight)
        yield BadSample(args, bad.match)
    x = randn(2, k)
    yield BadSample((x, None, 1e-5, qweight, Q4_0, "relu"), "act must be none or silu or gelu")
    yield BadSample((x, None, 1e-5, qweight[1:], Q4_0, "silu"), "qweight .*even .* got 9")


def bad_quant_matmul_transposed() -> Iterator[BadSample]:
    yield from bad_weights((randn(2, 10),), ())
    qweight, _ = weights("Q4_0", 10, 2)
    yield BadSample((randn(2, 10), qweight[0], Q4_0), "qweight must have 2 dimensions")
    yield BadSample((randn(2, 10).double(), qweight, Q4_0), "g must be float32 or")
    yield BadSample((torch.tensor(1.0), qweight, Q4_0), "g must have at least 1 dim")
    yield BadSample((randn(2, 9), qweight, Q4_0), "g has 9 features but qweight has 10 rows")


def bad_quant_embedding() -> Iterator[BadSample]:
    ids = torch.tensor([0, 3])
    yield from bad_weights((ids,), (torch.float32,))
    qweight, _ = weights("Q4_0", 10, 2)
    yield BadSample((ids, qweight[0], Q4_0, torch.float32), "qweight must have 2 dimensions")
    yield BadSample((ids.float(), qweight, Q4_0, torch.float32), "ids must be int64 or int32")
    yield BadSample((ids, qweight, Q4_0, torch.int32), "dtype must be .*float32.*got")
    for wrong in (-1, 10):
        args = (torch.tensor([0, wrong]), qweight, Q4_0, torch.float32)
        yield BadSample(args, f"ids must be .*10.*got .?{wrong}", on_meta=False)


def bad_repack(argument: str) -> Iterator[BadSample]:
    yield from bad_weights((), (), argument)
    qweight, _ = weights("Q4_0", 10, 2)
    yield BadSample((qweight[0], Q4_0), f"{argument} must have 2 dimensions")


SAMPLES: Samples = {
    "dequantize": dequantize,
    "quantize": quantize,
    "quant_matmul": quant_matmul_in_both_layouts,
    "quant_matmul_gated": quant_matmul_gated,
    "norm_quant_matmul": norm_quant_matmul,
    "quant_matmul_transposed": quant_matmul_transposed,
    "quant_embedding": quant_embedding,
    "pack_weight": repack,
    "unpack_weight": repack,
}
BAD_SAMPLES: BadSamples = {
    "dequantize": bad_dequantize,
    "quantize": bad_quantize,
    "quant_matmul": bad_quant_matmul,
    "quant_matmul_gated": bad_quant_matmul_gated,
    "norm_quant_matmul": bad_norm_quant_matmul,
    "quant_matmul_transposed": bad_quant_matmul_transposed,
    "quant_embedding": bad_quant_embedding,
    "pack_weight": partial(bad_repack, "qweight"),
    "unpack_weight": partial(bad_repack, "packed"),
}
