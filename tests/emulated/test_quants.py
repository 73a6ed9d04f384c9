"""The kernels on quantized weights, compiled for AMD and executed, against the reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulated_tensors import ARCHS, DTYPE_CODES, from_bits, give, take

from rocmforge_torch.ops.reference import pack_weight, quant_ops
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.quant_blocks import extreme_blocks, named, random_blocks
from tools.amd.emulator import Emulator, Output, Run, Struct, poisoned
from tools.amd.emulator.messages import Buffer
from tools.amd.toolchain import CSRC

Field = tuple[str, Buffer | Struct | int | float]
pytestmark = pytest.mark.emulated
HIP = CSRC / "hip"
ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
QUANTIZED = [row for row in ALL if row.is_quantized]
MATVEC = {"Q4_0": "simple", "Q8_0": "simple", "Q4_K": "k", "Q6_K": "k", "IQ3_S": "grid"}


def weights(row: QuantType, rows: int, blocks: int) -> torch.Tensor:
    return torch.from_numpy(random_blocks(row, rows * blocks)).view(rows, -1)


def pointer(buffer: Buffer | None) -> Field:
    return ("c_void_p", 0 if buffer is None else buffer)


def matrix_fields(row: QuantType, qweight: torch.Tensor, layout: int) -> list[Field]:
    """The fields of a QuantMatrix."""
    num_rows, row_bytes = qweight.shape
    cols = row_bytes // row.block_bytes * row.block_size
    return [
        ("c_int", row.id),
        ("c_int", layout),
        pointer(give(qweight)),
        ("c_int64", num_rows),
        ("c_int64", cols),
        ("c_int64", row_bytes),
    ]


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


def round_up(n: int) -> int:
    return -(-n // 256) * 256


def quantize_activations(
    emulator: Emulator, arch: str, x: torch.Tensor, out_rows: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Codes, scales and sums of x [rows, cols], of which the last row repeats up to out_rows."""
    rows, cols = x.shape
    outs = [
        take((out_rows, cols), torch.int8),
        take((out_rows, cols // 32), torch.float32),
        take((out_rows, cols // 16), torch.float32),
    ]
    fields = [pointer(out) for out in outs]
    run = emulator.launch(
        HIP / "activations.hip",
        arch,
        "quantize_activations",
        [DTYPE_CODES[x.dtype], give(x), cols, rows, cols, out_rows, Struct(fields), None],
    )
    codes, scales, sums = (torch.from_numpy(a) for a in run.outputs)
    return codes, scales, sums


@pytest.mark.parametrize("arch", ARCHS)
def test_activations_are_rounded_to_8_bits(emulator: Emulator, arch: str) -> None:
    x = torch.randn(3, 288)
    x[0, 5], x[1, 40], x[2, :32] = float("nan"), float("inf"), 0
    codes, scales, sums = quantize_activations(emulator, arch, x, 4)
    assert torch.equal(codes[3], codes[2])
    assert not scales[0, 0].isfinite()
    assert not scales[1, 1].isfinite()
    blocks, numbers = x.view(3, 9, 32), codes[:3].view(3, 9, 32)
    good = scales[:3].isfinite()
    assert int(good.sum()) == 25
    want = blocks.abs().amax(-1) / 127
    torch.testing.assert_close(scales[:3][good], want[good], rtol=1e-6, atol=0)
    error = (numbers * scales[:3, :, None] - blocks).abs().amax(-1)
    assert (error[good] <= 0.501 * scales[:3][good]).all()
    halves = codes.view(4, 9, 2, 16).sum(-1) * scales[:, :, None]
    torch.testing.assert_close(sums.view(4, 9, 2), halves, equal_nan=True)


def matvec(
    emulator: Emulator,
    arch: str,
    row: QuantType,
    x: torch.Tensor,
    qweight: torch.Tensor,
    layout: int,
    bias: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, Run]:
    """The product, x as the kernel rounded it, and what was run."""
    rows = len(x)
    kernel_rows = next(m for m in (1, 2, 4, 8) if m >= rows)
    activations = quantize_activations(emulator, arch, x, kernel_rows)
    run = emulator.launch(
        HIP / f"matvec_{MATVEC[row.name]}.hip",
        arch,
        f"matvec_{MATVEC[row.name]}",
        [
            Struct(
                [
                    *matrix_fields(row, qweight, layout),
                    *(pointer(give(a)) for a in activations),
                    ("c_int64", rows),
                    pointer(give(bias)),
                    ("c_int", 0 if bias is None else DTYPE_CODES[bias.dtype]),
                    ("c_int", DTYPE_CODES[x.dtype]),
                    pointer(take((rows, len(qweight)), x.dtype)),
                    pointer(None),
                ]
            )
        ],
    )
    codes, scales, _ = (a[:rows] for a in activations)
    rounded = codes.double() * scales.double().repeat_interleave(32, dim=1)
    return from_bits(run.outputs[0], x.dtype), rounded, run


def assert_is_product(
    got: torch.Tensor,
    rounded: torch.Tensor,
    row: QuantType,
    qweight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """The float64 product of the rounded activations, up to float32 sums and one rounding."""
    values = quant_ops.dequantize(qweight, row.id).double()
    want, size = rounded @ values.T, rounded.abs() @ values.abs().T
    if bias is not None:
        want, size = want + bias.double(), size + bias.double().abs()
    allowed = 1e-5 * size + torch.finfo(got.dtype).eps * want.abs()
    assert ((got.double() - want).abs() <= allowed).all()


@pytest.mark.parametrize("name", MATVEC)
@pytest.mark.parametrize("rows", [1, 3])
def test_matvec(emulator: Emulator, name: str, rows: int) -> None:
    """Both layouts give the same bits: the order of the sums is the same."""
    row = named(name)
    qweight = weights(row, 5, 3 if row.block_size > 32 else 41)
    cols = qweight.shape[1] // row.block_bytes * row.block_size
    x = torch.randn(rows, cols)
    got, rounded, run = matvec(emulator, "gfx1100", row, x, qweight, 0)
    assert_is_product(got, rounded, row, qweight)
    assert run.counts["v_dot4_i32_iu8"] > 0
    planes = packed(emulator, "gfx1100", row, qweight)
    assert torch.equal(matvec(emulator, "gfx1100", row, x, planes, 1)[0], got)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_matvec_with_bias(emulator: Emulator, arch: str, dtype: torch.dtype) -> None:
    row = named("Q8_0")
    qweight, x = weights(row, 5, 3), torch.randn(2, 96).to(dtype)
    for bias in (torch.randn(5), torch.randn(5).to(dtype)):
        got, rounded, _ = matvec(emulator, arch, row, x, qweight, 0, bias)
        assert_is_product(got, rounded, row, qweight, bias)
