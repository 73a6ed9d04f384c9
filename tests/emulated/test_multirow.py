"""The multirow kernels, compiled for AMD and executed, against float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from emulated_tensors import ARCHS, DTYPE_CODES, from_bits, give, take
from quantized_products import (
    FAMILY,
    HIP,
    QUANTIZED,
    Field,
    assert_is_normed_product,
    assert_is_product,
    check_gated_products,
    check_special_activations,
    matrix_fields,
    norm_fields,
    pointer,
)

from rocmforge_torch.ops.reference import pack_weight
from rocmforge_torch.quant_types import QuantType
from tests.ops.quant_blocks import named, random_blocks
from tools.amd.emulator import Emulator, Output, Run, Struct, poisoned

pytestmark = pytest.mark.emulated
MATRIX = {"gfx1100": "v_wmma_i32_", "gfx1201": "v_wmma_i32_", "gfx942": "v_mfma_i32_"}


def multirow(
    emulator: Emulator,
    arch: str,
    row: QuantType,
    x: torch.Tensor,
    qweight: torch.Tensor,
    layout: int = 0,
    bias: torch.Tensor | None = None,
    gate: int | None = None,
    norm: Struct | None = None,
) -> tuple[torch.Tensor, Run]:
    """x [rows, K] times qweight [n, row_bytes] in file order, or the gated product under the given
    activation; and what was run. norm: an InputNorm, whose total is the last output."""
    (rows, cols), n = x.shape, len(qweight)
    wide = n if gate is None else n // 2
    # Rows and columns padded as for the widest type: see multirow_workspace_bytes.
    workspace = (8 if rows <= 8 else 16) * -(-cols // 512) * (512 * 7 // 4 + 4)
    fields: list[Field] = [
        *matrix_fields(row, pack_weight(qweight, row.id) if layout else qweight, layout),
        pointer(give(x)),
        ("c_int64", rows),
        pointer(Output(poisoned((workspace,), np.uint8))),
        pointer(give(bias)),
        ("c_int", 0 if bias is None else DTYPE_CODES[bias.dtype]),
        ("c_int", DTYPE_CODES[x.dtype]),
        pointer(take((rows, wide), x.dtype, offset=1)),
        ("c_bool", False),
        pointer(None),
    ]
    function = f"multirow_{FAMILY[row.name]}"
    arguments = [Struct(fields), gate is not None, gate or 0, norm]
    run = emulator.launch(HIP / f"{function}.hip", arch, function, arguments)
    if arch in MATRIX:
        assert sum(n for name, n in run.counts.items() if name.startswith(MATRIX[arch])) > 0
    return from_bits(run.outputs[1], x.dtype), run


def weights_and_x(
    row: QuantType, n: int, columns: int, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """At least so many columns."""
    blocks = -(-columns // row.block_size)
    qweight = torch.from_numpy(random_blocks(row, n * blocks)).view(n, -1)
    return qweight, torch.randn(rows, blocks * row.block_size)


@pytest.mark.parametrize("row", QUANTIZED, ids=lambda row: row.name)
def test_every_type(emulator: Emulator, row: QuantType) -> None:
    """Both layouts give the same bits: the order of the sums is the same."""
    qweight, x = weights_and_x(row, 19, 288, 3)
    got, _ = multirow(emulator, "gfx1100", row, x, qweight)
    assert_is_product(got, x, row, qweight)
    assert torch.equal(multirow(emulator, "gfx1100", row, x, qweight, layout=1)[0], got)


@pytest.mark.parametrize("arch", ["gfx1201", "gfx942"])
@pytest.mark.parametrize("name", ["Q4_0", "Q2_K", "Q6_K", "IQ2_XS", "Q5_1", "NVFP4"])
def test_other_architectures(emulator: Emulator, arch: str, name: str) -> None:
    row = named(name)
    qweight, x = weights_and_x(row, 19, 288, 9)
    x, bias = x.to(torch.bfloat16), torch.randn(19)
    for layout in (0, 1):
        got, _ = multirow(emulator, arch, row, x, qweight, layout, bias)
        assert_is_product(got, x, row, qweight, bias)


@pytest.mark.parametrize("rows", [3, 8, 9, 16])
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
def test_rows_of_x(emulator: Emulator, rows: int, dtype: torch.dtype) -> None:
    row = named("Q8_0")
    qweight, x = weights_and_x(row, 5, 64, rows)
    x = x.to(dtype)
    for bias in (torch.randn(5), torch.randn(5).to(dtype)):
        got, _ = multirow(emulator, "gfx1100", row, x, qweight, 1, bias)
        assert_is_product(got, x, row, qweight, bias)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize(("n", "columns", "rows"), [(3, 8448, 12), (400, 256, 4), (7, 4128, 8)])
def test_walks(emulator: Emulator, arch: str, n: int, columns: int, rows: int) -> None:
    """x by phases, blocks that go round, waves that share a tile and waves that do not."""
    row = named("Q4_0")
    qweight, x = weights_and_x(row, n, columns, rows)
    assert_is_product(multirow(emulator, arch, row, x, qweight, 1)[0], x, row, qweight)


def test_special_activations(emulator: Emulator) -> None:
    row = named("Q4_0")
    qweight, x = weights_and_x(row, 3, 288, 5)
    check_special_activations(
        row, qweight, x, lambda x: multirow(emulator, "gfx1100", row, x, qweight)[0]
    )


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", ["Q4_K", "IQ3_S"])
@pytest.mark.parametrize("rows", [3, 10])
def test_gated(emulator: Emulator, arch: str, name: str, rows: int) -> None:
    row = named(name)
    qweight, x = weights_and_x(row, 22, 512, rows)
    check_gated_products(
        row,
        qweight,
        x,
        lambda bias, gate: multirow(emulator, arch, row, x, qweight, 0, bias, gate)[0],
    )


def check_normed(
    emulator: Emulator,
    arch: str,
    row: QuantType,
    x: torch.Tensor,
    qweight: torch.Tensor,
    residual: torch.Tensor | None,
    weight: torch.Tensor | None,
) -> None:
    got, run = multirow(emulator, arch, row, x, qweight, 1, norm=norm_fields(x, residual, weight))
    total = from_bits(run.outputs[2], x.dtype)
    assert torch.equal(total, x if residual is None else x + residual)
    assert_is_normed_product(got, total, weight, row, qweight)


@pytest.mark.parametrize("row", QUANTIZED, ids=lambda row: row.name)
@pytest.mark.parametrize("rows", [5, 9])
def test_normed(emulator: Emulator, row: QuantType, rows: int) -> None:
    qweight, x = weights_and_x(row, 3, 288, rows)
    check_normed(emulator, "gfx1100", row, x, qweight, torch.randn_like(x), torch.randn(x.shape[1]))


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
def test_norms_of_dtypes(emulator: Emulator, arch: str, dtype: torch.dtype) -> None:
    """With and without weights, of either dtype, and residuals; more columns than a block's threads
    take at once."""
    row = named("Q4_K")
    qweight, x = weights_and_x(row, 3, 4352, 3)
    x = x.to(dtype)
    check_normed(emulator, arch, row, x, qweight, torch.randn_like(x), None)
    check_normed(emulator, arch, row, x, qweight, None, torch.randn(x.shape[1]).to(dtype))
