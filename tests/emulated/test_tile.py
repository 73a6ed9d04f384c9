"""The tile kernels, compiled for AMD and executed, against float64."""

from __future__ import annotations

import pytest
import torch
from emulated_tensors import DTYPE_CODES, from_bits, give, take
from quantized_products import FAMILY, HIP, QUANTIZED, Field, matrix_fields, pointer

from rocmforge_torch.ops.reference import pack_weight, quant_ops
from rocmforge_torch.quant_types import QuantType
from tests.ops.quant_blocks import named, random_blocks
from tools.amd.emulator import Emulator, Run, Struct
from tools.amd.emulator.messages import Buffer

pytestmark = pytest.mark.emulated
MATRIX = {"gfx1100": "v_wmma_", "gfx1201": "v_wmma_", "gfx942": "v_mfma_"}


def chunk_rows(arch: str, rows: int) -> int:
    fewest = 16 if arch in MATRIX else 8
    return fewest if rows <= fewest else 16 if rows <= 16 else 64


def tile_input(emulator: Emulator, arch: str, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Values [chunks, cols / 8, rows of a chunk, 8] and factors of x, whose rows may be apart."""
    base = x if x._base is None else x._base
    (rows, cols), chunk = x.shape, chunk_rows(arch, len(x))
    chunks, offset = -(-rows // chunk), int(x.storage_offset())
    values = take((chunks, cols // 8, chunk, 8), torch.float16)
    factors = take((chunks * chunk,), torch.float32)
    fields = [pointer(values), pointer(factors), ("c_int", chunk), ("c_bool", False)]
    element = base.flatten()[offset:]
    run = emulator.launch(
        HIP / "tile_input.hip",
        arch,
        "tile_input",
        [
            0,  # the type of the weights, which matters elsewhere
            DTYPE_CODES[x.dtype],
            give(element, offset),
            int(x.stride(0)),
            rows,
            cols,
            Struct(fields),
            None,
        ],
    )
    return torch.from_numpy(run.outputs[0]), torch.from_numpy(run.outputs[1])


def tile(
    emulator: Emulator,
    arch: str,
    row: QuantType,
    x: torch.Tensor,
    qweight: torch.Tensor,
    layout: int = 0,
    bias: torch.Tensor | None = None,
    splits: int = 1,
) -> tuple[torch.Tensor, Run]:
    """x [rows, K], its rows perhaps apart, times qweight [n, row_bytes] in file order."""
    rows, n = len(x), len(qweight)
    values, factors = tile_input(emulator, arch, x)
    data = pack_weight(qweight, row.id) if layout else qweight

    def call(sums: Buffer | None, out: Buffer | None) -> Struct:
        fields: list[Field] = [
            *matrix_fields(row, data, layout),
            (
                "struct",
                Struct(
                    [
                        pointer(give(values)),
                        pointer(give(factors)),
                        ("c_int", values.shape[2]),
                        ("c_bool", False),
                    ]
                ),
            ),
            ("struct", Struct([("c_int", splits), pointer(sums)])),
            ("c_int64", rows),
            pointer(give(bias)),
            ("c_int", 0 if bias is None else DTYPE_CODES[bias.dtype]),
            ("c_int", DTYPE_CODES[x.dtype]),
            pointer(out),
            pointer(None),
        ]
        return Struct(fields)

    function, out = f"tile_{FAMILY[row.name]}", take((rows, n), x.dtype)
    if splits == 1:
        run = emulator.launch(HIP / f"{function}.hip", arch, function, [call(None, out)])
        return from_bits(run.outputs[0], x.dtype), run
    sums = take((splits, rows, n), torch.float32)
    run = emulator.launch(HIP / f"{function}.hip", arch, function, [call(sums, None)])
    given = give(torch.from_numpy(run.outputs[0]))
    summed = emulator.launch(HIP / "tile_splits.hip", arch, "sum_tile_splits", [call(given, out)])
    return from_bits(summed.outputs[0], x.dtype), run


def weights(row: QuantType, n: int, blocks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """qweight and its values in float64."""
    qweight = torch.from_numpy(random_blocks(row, n * blocks)).view(n, -1)
    return qweight, quant_ops.dequantize(qweight, row.id).double()


def as_half(x: torch.Tensor) -> torch.Tensor:
    """x as float16 holds it under a power of two for each row."""
    power = torch.exp2(14 - x.double().abs().amax(-1, keepdim=True).log2().floor())
    return (x.double() * power).half().double() / power


def assert_is_half_product(
    got: torch.Tensor,
    x: torch.Tensor,
    values: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """No more than twice as far from the float64 product as that of factors in float16."""
    want = x.double() @ values.T
    half = as_half(x) @ as_half(values).T
    assert got.isfinite().all()
    if bias is not None:
        want, half = want + bias.double(), half + bias.double()
    half = half.to(got.dtype).double()
    error, allowed = (got.double() - want).norm(), (half - want).norm()
    assert error <= 2 * allowed, (float(error), float(allowed))
    assert error**2 <= 1e-4 * want.norm() ** 2


@pytest.mark.parametrize("arch", MATRIX)
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
@pytest.mark.parametrize("rows", [3, 66])
def test_rows_in_half_precision(
    emulator: Emulator, arch: str, dtype: torch.dtype, rows: int
) -> None:
    """Where every value stands, and that a power of two puts it where float16 is finest."""
    x = torch.randn(rows, 96).to(dtype)[:, 5:77] * 1000
    x[1] *= torch.finfo(dtype).tiny
    values, factors = tile_input(emulator, arch, x)
    chunk = values.shape[2]
    back = values.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    assert torch.equal(back[:rows].double() * factors[:rows, None], as_half(x))
    at_once = min(chunk, 32)
    used = -(-rows // at_once) * at_once
    assert (back[rows:used] == 0).all()
    assert back[used:].isnan().all(), "rows that no tile reads are not written"
    assert chunk == chunk_rows(arch, rows)


@pytest.mark.parametrize("row", QUANTIZED, ids=lambda row: row.name)
def test_every_type(emulator: Emulator, row: QuantType) -> None:
    """Both layouts give the same bits: the order of the sums is the same."""
    qweight, values = weights(row, 19, 1 if row.block_size > 64 else 3)
    x = torch.randn(3, values.shape[1])
    got, run = tile(emulator, "gfx1100", row, x, qweight)
    assert_is_half_product(got, x, values)
    assert sum(n for name, n in run.counts.items() if name.startswith(MATRIX["gfx1100"])) > 0
    assert torch.equal(tile(emulator, "gfx1100", row, x, qweight, layout=1)[0], got)


@pytest.mark.parametrize("arch", ["gfx1201", "gfx942"])
@pytest.mark.parametrize("name", ["Q4_0", "Q6_K", "IQ3_S", "IQ4_XS"])
def test_other_architectures(emulator: Emulator, arch: str, name: str) -> None:
    row = named(name)
    qweight, values = weights(row, 19, 1 if row.block_size > 64 else 3)
    x = torch.randn(17, values.shape[1]).to(torch.bfloat16)
    bias = torch.randn(19)
    for layout in (0, 1):
        got, run = tile(emulator, arch, row, x, qweight, layout, bias)
        assert_is_half_product(got, x, values, bias)
        assert sum(n for name, n in run.counts.items() if name.startswith(MATRIX[arch])) > 0


@pytest.mark.parametrize("rows", [1, 8, 9, 16, 33, 65])
def test_rows_of_x(emulator: Emulator, rows: int) -> None:
    """The second chunk of 65 rows, tiles that are left out, rows of x that stand apart."""
    row = named("Q8_0")
    qweight, values = weights(row, 5, 2)
    x = torch.randn(rows, 96).half()[:, 3:67]
    bias = torch.randn(5).half()
    assert_is_half_product(tile(emulator, "gfx1100", row, x, qweight, 1, bias)[0], x, values, bias)


def test_columns_of_every_wave(emulator: Emulator) -> None:
    """More steps than the waves of a block take at once, and a last one of some of its lanes."""
    row = named("Q4_0")
    for arch in MATRIX:
        qweight, values = weights(row, 16, 39)
        x = torch.randn(4, 39 * 32)
        assert_is_half_product(tile(emulator, arch, row, x, qweight, 1)[0], x, values)


@pytest.mark.parametrize("arch", MATRIX)
@pytest.mark.parametrize("splits", [2, 3, 9])
def test_splits_of_the_columns(emulator: Emulator, arch: str, splits: int) -> None:
    """Rows and columns that no tile or split ends at; the last of nine splits has nothing to do."""
    row = named("Q4_0")
    qweight, values = weights(row, 21, 17)
    x = torch.randn(18, 17 * 32).half()
    bias = torch.randn(21)
    got, run = tile(emulator, arch, row, x, qweight, 1, bias, splits)
    assert [launch.grid[1] for launch in run.launches] == [splits]
    assert_is_half_product(got, x, values, bias)
    again, _ = tile(emulator, arch, row, x, qweight, 0, bias, splits)
    assert torch.equal(again, got)


@pytest.mark.parametrize("rows", [33, 65])
@pytest.mark.parametrize("name", ["Q1_0", "Q6_K", "IQ3_S", "Q8_0"])
def test_splits_of_other_types(emulator: Emulator, name: str, rows: int) -> None:
    """Turns of other widths than a split, and several chunks of x."""
    row = named(name)
    blocks = 5 * 128 // min(row.block_size, 128) if row.block_size < 256 else 3
    qweight, values = weights(row, 5, blocks)
    x = torch.randn(rows, values.shape[1])
    got, _ = tile(emulator, "gfx1100", row, x, qweight, 1, None, 2)
    assert_is_half_product(got, x, values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
def test_numbers_out_of_range(emulator: Emulator, bad: float, dtype: torch.dtype) -> None:
    """They show in their row alone; the largest and the smallest numbers do not overflow."""
    row = named("Q8_0")
    qweight, values = weights(row, 5, 2)
    x = torch.randn(5, 64).to(dtype)
    x[1, 40] = bad
    x[2] = 0
    x[3] *= torch.finfo(dtype).max / 8192
    x[4] *= torch.finfo(dtype).tiny * 8
    got = tile(emulator, "gfx1100", row, x, qweight)[0]
    assert not got[1].isfinite().any()
    assert torch.equal(got[2], torch.zeros(5, dtype=dtype))
    for m in (0, 3, 4):
        want = x[m].double() @ values.T
        size = x[m].double().abs() @ values.T.abs()
        error = (got[m].double() - want).abs()
        smallest = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
        assert (error <= 2e-3 * size + torch.finfo(dtype).eps * want.abs() + smallest).all()
