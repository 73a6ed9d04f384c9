"""The tile kernels, compiled for AMD and executed, against float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from emulated_tensors import DTYPE_CODES, from_bits, give, take
from quantized_products import (
    EPS,
    FAMILY,
    HIP,
    QUANTIZED,
    Field,
    matrix_fields,
    norm_fields,
    pointer,
)

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


def tile_input(
    emulator: Emulator, arch: str, x: torch.Tensor, norm: Struct | None = None
) -> tuple[torch.Tensor, ...]:
    """Values [chunks, cols / 8, rows of a chunk, 8], factors of x, whose rows may be apart, and the
    total of an InputNorm."""
    base = x if x._base is None else x._base
    (rows, cols), chunk = x.shape, chunk_rows(arch, len(x))
    chunks, offset = -(-rows // chunk), int(x.storage_offset())
    values = take((chunks, cols // 8, chunk, 8), torch.float16)
    factors = take((chunks * chunk,), torch.float32)
    out = Struct([pointer(values), pointer(factors), ("c_int", chunk), ("c_bool", False)])
    fields: list[Field] = [
        ("c_int", 0),  # the type of the weights, which matters elsewhere
        ("c_int", DTYPE_CODES[x.dtype]),
        pointer(give(base.flatten()[offset:], offset)),
        ("c_int64", int(x.stride(0))),
        ("c_int64", rows),
        ("c_int64", cols),
        ("struct", out),
        ("c_bool", False),
        pointer(None),
    ]
    run = emulator.launch(HIP / "tile_input.hip", arch, "tile_input", [Struct(fields), norm])
    total = [] if norm is None else [from_bits(run.outputs[2], x.dtype)]
    return torch.from_numpy(run.outputs[0]), torch.from_numpy(run.outputs[1]), *total


def tile(
    emulator: Emulator,
    arch: str,
    row: QuantType,
    x: torch.Tensor,
    qweight: torch.Tensor,
    layout: int = 0,
    bias: torch.Tensor | None = None,
    splits: int = 1,
    gate: int | None = None,
    given: tuple[torch.Tensor, ...] = (),
) -> tuple[torch.Tensor, Run]:
    """x [rows, K], its rows perhaps apart, times qweight [n, row_bytes] in file order, or the gated
    product under the given activation. given: what tile_input makes of x."""
    rows, n = len(x), len(qweight)
    wide = n if gate is None else n // 2
    values, factors = (given or tile_input(emulator, arch, x))[:2]
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
            ("c_bool", gate is not None),
            ("c_int", gate or 0),
            pointer(None),
        ]
        return Struct(fields)

    function, out = f"tile_{FAMILY[row.name]}", take((rows, wide), x.dtype)
    if splits == 1:
        run = emulator.launch(HIP / f"{function}.hip", arch, function, [call(None, out)])
        return from_bits(run.outputs[0], x.dtype), run
    sums = take((splits, rows, n), torch.float32)
    run = emulator.launch(HIP / f"{function}.hip", arch, function, [call(sums, None)])
    read = give(torch.from_numpy(run.outputs[0]))
    summed = emulator.launch(HIP / "tile_splits.hip", arch, "sum_tile_splits", [call(read, out)])
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
    x = torch.randn(rows, 112).to(dtype)[:, 8:80] * 1000
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
    x = torch.randn(rows, 96).half()[:, 8:72]
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
@pytest.mark.parametrize(("splits", "n"), [(2, 21), (3, 20), (9, 21)])
def test_splits_of_the_columns(emulator: Emulator, arch: str, splits: int, n: int) -> None:
    """Rows and columns that no tile or split ends at, rows that are added up by fours; the last of
    nine splits has nothing to do."""
    row = named("Q4_0")
    qweight, values = weights(row, n, 17)
    x = torch.randn(18, 17 * 32).half()
    bias = torch.randn(n)
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


def check_normed_rows(
    emulator: Emulator,
    arch: str,
    x: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
) -> None:
    """The norm of x + residual, rounded once more, to float16 under a power of two."""
    values, factors, total = tile_input(emulator, arch, x, norm_fields(x, residual, weight))
    assert torch.equal(total, x if residual is None else x + residual)
    normed = total.double() * torch.rsqrt(total.double().square().mean(-1, keepdim=True) + EPS)
    if weight is not None:
        normed *= weight.double()
    back = values.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)[: len(x)].double()
    assert (back.abs().amax(1) >= 2**14).all()
    assert (back.abs().amax(1) <= 2**15).all()
    error = (back * factors[: len(x), None] - normed).abs()
    step = torch.finfo(torch.float16).eps / 2
    smallest = torch.finfo(torch.float16).smallest_normal * step * factors[: len(x), None]
    assert (error <= 1.01 * (step * normed.abs() + smallest)).all()


@pytest.mark.parametrize(
    ("arch", "dtype"),
    [
        *(("gfx1100", dtype) for dtype in DTYPE_CODES),
        ("gfx1201", torch.bfloat16),
        ("gfx942", torch.bfloat16),
    ],
    ids=str,
)
def test_normed_rows(emulator: Emulator, arch: str, dtype: torch.dtype) -> None:
    """With and without residuals and weights."""
    x = (torch.randn(3, 288) * 100).to(dtype)
    check_normed_rows(emulator, arch, x, torch.randn_like(x), torch.randn(288))
    check_normed_rows(emulator, arch, x, None, torch.randn(288).to(dtype))
    check_normed_rows(emulator, arch, x, torch.randn_like(x), None)


def test_long_rows(emulator: Emulator) -> None:
    """More parts than the first, and a last one that is not full."""
    x = torch.randn(1, 5000).half()
    check_normed_rows(emulator, "gfx1100", x, torch.randn_like(x), torch.randn(x.shape[1]))
    values, factors = tile_input(emulator, "gfx1100", x)
    back = values.permute(0, 2, 1, 3).flatten(2).flatten(0, 1)
    assert torch.equal(back[:1].double() * factors[:1, None], as_half(x))


def check_gated(
    emulator: Emulator, arch: str, row: QuantType, rows: int, n: int, splits: int = 1
) -> None:
    qweight, values = weights(row, n, 512 // row.block_size)
    x, bias = torch.randn(rows, values.shape[1]), torch.randn(n)
    given = tile_input(emulator, arch, x)
    acts: list[Callable[[torch.Tensor], torch.Tensor]] = [
        F.silu,
        partial(F.gelu, approximate="tanh"),
    ]

    def products(x: torch.Tensor, values: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return (x @ values.T + bias.double()).chunk(2, dim=1)

    (gates, ups), (half_gates, half_ups) = (
        products(x.double(), values),
        products(as_half(x), as_half(values)),
    )
    for gate, act in enumerate(acts):
        got, _ = tile(emulator, arch, row, x, qweight, gate, bias, splits, gate, given)
        want, half = act(gates) * ups, act(half_gates) * half_ups
        error, allowed = (got.double() - want).norm(), (half - want).norm()
        assert got.isfinite().all()
        assert error <= 2 * allowed, (float(error), float(allowed))


@pytest.mark.parametrize(
    ("arch", "name", "rows", "splits"),
    [
        ("gfx1100", "Q4_K", 5, 1),
        ("gfx1100", "IQ3_S", 34, 2),
        ("gfx1201", "Q4_K", 17, 1),
        ("gfx942", "Q8_0", 17, 2),
    ],
)
def test_gated(emulator: Emulator, arch: str, name: str, rows: int, splits: int) -> None:
    """Halves that no tile ends at."""
    check_gated(emulator, arch, named(name), rows, 22, splits)
