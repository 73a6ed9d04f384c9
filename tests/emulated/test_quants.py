"""The kernels on quantized weights, compiled for AMD and executed, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emulated_tensors import ARCHS, DTYPE_CODES, from_bits, give, take
from quantized_products import (
    FAMILY,
    HIP,
    QUANTIZED,
    assert_is_normed_product,
    assert_is_product,
    check_gated_products,
    check_special_activations,
    matrix_fields,
    norm_fields,
    pointer,
)

from rocmforge_torch.ops.reference import pack_weight, quant_ops
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.quant_blocks import extreme_blocks, named, random_blocks
from tools.amd.emulator import Emulator, Output, Run, Struct, poisoned

pytestmark = pytest.mark.emulated
ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]


def weights(row: QuantType, rows: int, blocks: int) -> torch.Tensor:
    return torch.from_numpy(random_blocks(row, rows * blocks)).view(rows, -1)


def repack(emulator: Emulator, arch: str, way: str, row: QuantType, data: torch.Tensor) -> Run:
    blocks = data.numel() // row.block_bytes
    out = Output(poisoned(tuple(data.shape), np.uint8))
    return emulator.launch(
        HIP / "pack.hip", arch, f"{way}_weight", [row.id, give(data), out, blocks, None]
    )


def packed(emulator: Emulator, arch: str, row: QuantType, qweight: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(repack(emulator, arch, "pack", row, qweight).outputs[0])


def dequantize(
    emulator: Emulator,
    arch: str,
    row: QuantType,
    qweight: torch.Tensor,
    dtype: torch.dtype = torch.float32,
    layout: int = 0,
    ids: list[int] | None = None,
    first: int = 0,
) -> torch.Tensor:
    count = len(qweight) - first if ids is None else len(ids)
    cols = qweight.shape[1] // row.block_bytes * row.block_size
    run = emulator.launch(
        HIP / "dequantize.hip",
        arch,
        "dequantize",
        [
            Struct(matrix_fields(row, qweight, layout)),
            first,
            give(None if ids is None else torch.tensor(ids)),
            count,
            DTYPE_CODES[dtype],
            take((count, cols), dtype),
            None,
        ],
    )
    return from_bits(run.outputs[0], dtype)


def assert_same_bits(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal to the bit, with any NaN for a NaN."""
    assert got.dtype == want.dtype
    assert torch.equal(got.isnan(), want.isnan())
    number = ~want.isnan()
    kind = torch.int32 if want.dtype == torch.float32 else torch.int16
    assert torch.equal(got[number].view(kind), want[number].view(kind))


PLAIN = [row for row in ALL if not row.is_quantized]


@pytest.mark.parametrize("row", PLAIN, ids=lambda row: row.name)
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
@pytest.mark.parametrize("cols", [19, 1064])
def test_rows_of_plain_numbers(
    emulator: Emulator, row: QuantType, dtype: torch.dtype, cols: int
) -> None:
    """One number after the other, and 16 bytes at a time; rows that are not there."""
    stored = {0: torch.float32, 1: torch.float16, 30: torch.bfloat16}[row.id]
    values = torch.randn(4, cols).to(stored)
    qweight = values.view(torch.uint8)
    want = torch.full((5, cols), torch.nan, dtype=dtype)
    want[[0, 2, 4]] = values[[3, 0, 3]].to(dtype)
    got = dequantize(emulator, "gfx1100", row, qweight, dtype, ids=[3, 4, 0, -1, 3])
    assert_same_bits(got, want)
    assert_same_bits(
        dequantize(emulator, "gfx1100", row, qweight, dtype, first=1), values[1:].to(dtype)
    )


@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_dequantize_is_bit_exact(emulator: Emulator, row: QuantType) -> None:
    """Ordinary blocks and, under every special scale, blocks of random codes."""
    blocks = np.concatenate([random_blocks(row, 2), extreme_blocks(row)[::7]])
    qweight = torch.from_numpy(blocks[: len(blocks) // 3 * 3]).view(3, -1)
    want = quant_ops.dequantize(qweight, row.id)
    assert_same_bits(dequantize(emulator, "gfx1100", row, qweight), want)
    if row.is_quantized:
        planes = packed(emulator, "gfx1100", row, qweight)
        assert torch.equal(planes, pack_weight(qweight, row.id))
        assert_same_bits(dequantize(emulator, "gfx1100", row, planes, layout=1), want)
        back = repack(emulator, "gfx1100", "unpack", row, planes).outputs[0]
        np.testing.assert_array_equal(back, qweight.numpy())


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
def test_rows_by_number(emulator: Emulator, arch: str, dtype: torch.dtype) -> None:
    row = named("Q4_K")
    qweight = weights(row, 4, 1)
    want = quant_ops.dequantize(qweight, row.id, dtype)
    got = dequantize(emulator, arch, row, qweight, dtype, ids=[2, 0, 4, -1])
    assert_same_bits(got[:2], want[[2, 0]])
    assert got[2:].isnan().all(), "rows that the table does not have"
    assert_same_bits(dequantize(emulator, arch, row, qweight, dtype, first=3), want[3:])


def matvec(
    emulator: Emulator,
    arch: str,
    row: QuantType,
    x: torch.Tensor,
    qweight: torch.Tensor,
    layout: int,
    bias: torch.Tensor | None = None,
    gate: int | None = None,
    norm: Struct | None = None,
) -> tuple[torch.Tensor, Run]:
    """The product, or the gated one under the given activation, and what was run. norm: a
    MatvecNorm, whose total is the second output."""
    rows, cols = len(x), len(qweight) if gate is None else len(qweight) // 2
    run = emulator.launch(
        HIP / f"matvec_{FAMILY[row.name]}.hip",
        arch,
        f"matvec_{FAMILY[row.name]}",
        [
            Struct(
                [
                    *matrix_fields(row, qweight, layout),
                    pointer(give(x)),
                    ("c_int64", rows),
                    pointer(give(bias)),
                    ("c_int", 0 if bias is None else DTYPE_CODES[bias.dtype]),
                    ("c_int", DTYPE_CODES[x.dtype]),
                    pointer(take((rows, cols), x.dtype, offset=1)),
                    pointer(None),
                ]
            ),
            gate is not None,
            gate or 0,
            norm,
        ],
    )
    return from_bits(run.outputs[0], x.dtype), run


def weights_and_x(
    row: QuantType, num_rows: int, blocks_of_256: int, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    blocks = 256 * blocks_of_256 // row.block_size
    return weights(row, num_rows, blocks), torch.randn(rows, 256 * blocks_of_256)


@pytest.mark.parametrize("row", QUANTIZED, ids=lambda row: row.name)
@pytest.mark.parametrize("rows", [1, 2])
def test_matvec(emulator: Emulator, row: QuantType, rows: int) -> None:
    """Both layouts give the same bits: the order of the sums is the same."""
    qweight, x = weights_and_x(row, 5, 3, rows)
    got, run = matvec(emulator, "gfx1100", row, x, qweight, 0)
    assert_is_product(got, x, row, qweight)
    assert run.counts["v_dot4_i32_iu8"] > 0
    planes = pack_weight(qweight, row.id)
    assert torch.equal(matvec(emulator, "gfx1100", row, x, planes, 1)[0], got)


@pytest.mark.parametrize("row", [named("Q6_K"), named("Q4_0")], ids=lambda row: row.name)
@pytest.mark.parametrize("num_rows", [3, 300])
def test_matvec_walks(emulator: Emulator, row: QuantType, num_rows: int) -> None:
    """Waves that share a pair of rows where there are few, and that walk over several otherwise."""
    qweight, x = weights_and_x(row, num_rows, 33 if num_rows == 3 else 1, 3)
    assert_is_product(matvec(emulator, "gfx1100", row, x, qweight, 0)[0], x, row, qweight)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_matvec_with_bias(emulator: Emulator, arch: str, dtype: torch.dtype) -> None:
    row = named("Q8_0")
    qweight, x = weights(row, 5, 3), torch.randn(2, 96).to(dtype)
    for bias in (torch.randn(5), torch.randn(5).to(dtype)):
        got, _ = matvec(emulator, arch, row, x, qweight, 0, bias)
        assert_is_product(got, x, row, qweight, bias)


def test_matvec_of_special_activations(emulator: Emulator) -> None:
    row = named("Q4_0")
    qweight, x = weights(row, 3, 9), torch.randn(4, 288)
    check_special_activations(
        row, qweight, x, lambda x: matvec(emulator, "gfx1100", row, x, qweight, 0)[0]
    )


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", ["Q4_K", "IQ3_S", "IQ4_XS"])
@pytest.mark.parametrize("rows", [1, 2])
def test_gated_matvec(emulator: Emulator, arch: str, name: str, rows: int) -> None:
    row = named(name)
    qweight, x = weights_and_x(row, 10, 2, rows)
    check_gated_products(
        row,
        qweight,
        x,
        lambda bias, gate: matvec(emulator, arch, row, x, qweight, 0, bias, gate)[0],
    )


def normed_matvec(
    emulator: Emulator,
    arch: str,
    row: QuantType,
    x: torch.Tensor,
    planes: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
    gate: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The product of the normed row, and the total."""
    norm = norm_fields(x, residual, weight)
    got, run = matvec(emulator, arch, row, x, planes, 1, gate=gate, norm=norm)
    return got, from_bits(run.outputs[1], x.dtype)


@pytest.mark.parametrize("row", QUANTIZED, ids=lambda row: row.name)
def test_normed_matvec(emulator: Emulator, row: QuantType) -> None:
    qweight, x = weights_and_x(row, 5, 3, 1)
    residual, weight = torch.randn_like(x), torch.randn(x.shape[1])
    planes = pack_weight(qweight, row.id)
    got, total = normed_matvec(emulator, "gfx1100", row, x, planes, residual, weight)
    assert torch.equal(total, x + residual)
    assert_is_normed_product(got, total, weight, row, qweight)


@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
@pytest.mark.parametrize("arch", ARCHS)
def test_norms_of_dtypes(emulator: Emulator, arch: str, dtype: torch.dtype) -> None:
    """With and without weights, of either dtype, and residuals; more values than one round of a
    block's threads takes."""
    row = named("Q4_0")
    qweight, x = weights_and_x(row, 3, 33, 1)
    planes, x = pack_weight(qweight, row.id), x.to(dtype)
    weights_of = [None, torch.randn(x.shape[1]), torch.randn(x.shape[1]).to(dtype)]
    for weight, residual in zip(weights_of, [torch.randn_like(x), None, x], strict=True):
        got, total = normed_matvec(emulator, arch, row, x, planes, residual, weight)
        assert torch.equal(total, x if residual is None else x + residual)
        assert_is_normed_product(got, total, weight, row, qweight)


@pytest.mark.parametrize("gate", [0, 1])
def test_gated_normed_matvec(emulator: Emulator, gate: int) -> None:
    row = named("Q4_K")
    qweight, x = weights_and_x(row, 10, 2, 1)
    planes = pack_weight(qweight, row.id)
    product = normed_matvec(emulator, "gfx1100", row, x, planes, None, None)[0]
    gates, ups = product.chunk(2, dim=1)
    got = normed_matvec(emulator, "gfx1100", row, x, planes, None, None, gate)[0]
    act = F.silu(gates) if gate == 0 else F.gelu(gates, approximate="tanh")
    torch.testing.assert_close(got, act * ups, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("special", [float("nan"), float("inf")])
def test_norms_keep_what_is_no_number(emulator: Emulator, special: float) -> None:
    row = named("Q8_0")
    qweight, x = weights_and_x(row, 3, 1, 1)
    x[0, 77] = special
    got, total = normed_matvec(
        emulator, "gfx1100", row, x, pack_weight(qweight, row.id), None, None
    )
    assert not got.isfinite().any()
    assert torch.equal(total.isfinite(), x.isfinite())
