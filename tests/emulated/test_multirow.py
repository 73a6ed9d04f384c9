"""The multirow kernels, compiled for AMD and executed, against float64."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from emulated_tensors import ARCHS, DTYPE_CODES, from_bits, give, take

from rocmforge_torch.ops.reference import pack_weight, quant_ops
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.quant_blocks import named, random_blocks
from tests.ops.rounded_activations import middles, product_of_rounded
from tools.amd.emulator import Emulator, Output, Run, Struct, poisoned
from tools.amd.emulator.messages import Buffer
from tools.amd.toolchain import CSRC

Field = tuple[str, Buffer | Struct | int | float]
pytestmark = pytest.mark.emulated
HIP = CSRC / "hip"
# The families of csrc/hip/quants/table.h that are not "simple".
FAMILIES = {
    "k": ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"),
    "grid": ("IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S"),
    "small": ("IQ4_NL", "IQ4_XS", "TQ1_0", "TQ2_0", "MXFP4", "NVFP4"),
}
FAMILY = {name: family for family, names in FAMILIES.items() for name in names}
QUANTIZED = [row for row in map(QUANT_TYPES.__getitem__, FORMATS) if row.is_quantized]
MATRIX = {"gfx1100": "v_wmma_i32_", "gfx1201": "v_wmma_i32_", "gfx942": "v_mfma_i32_"}


def pointer(buffer: Buffer | None) -> Field:
    return ("c_void_p", 0 if buffer is None else buffer)


def multirow(
    emulator: Emulator,
    arch: str,
    row: QuantType,
    x: torch.Tensor,
    qweight: torch.Tensor,
    layout: int = 0,
    bias: torch.Tensor | None = None,
    gate: int | None = None,
) -> tuple[torch.Tensor, Run]:
    """x [rows, K] times qweight [n, row_bytes] in file order, or the gated product under the given
    activation; and what was run."""
    (rows, cols), (n, row_bytes) = x.shape, qweight.shape
    wide = n if gate is None else n // 2
    # Rows and columns padded as for the widest type: see multirow_workspace_bytes.
    workspace = (8 if rows <= 8 else 16) * (-(-cols // 512) * 512) * 7 // 4
    fields: list[Field] = [
        ("c_int", row.id),
        ("c_int", layout),
        pointer(give(pack_weight(qweight, row.id) if layout else qweight)),
        ("c_int64", n),
        ("c_int64", cols),
        ("c_int64", row_bytes),
        pointer(give(x, offset=1)),
        ("c_int64", rows),
        pointer(Output(poisoned((workspace,), np.uint8))),
        pointer(give(bias)),
        ("c_int", 0 if bias is None else DTYPE_CODES[bias.dtype]),
        ("c_int", DTYPE_CODES[x.dtype]),
        pointer(take((rows, wide), x.dtype, offset=1)),
        pointer(None),
    ]
    function = f"multirow_{FAMILY.get(row.name, 'simple')}"
    arguments = [Struct(fields), gate is not None, gate or 0]
    run = emulator.launch(HIP / f"{function}.hip", arch, function, arguments)
    assert sum(n for name, n in run.counts.items() if name.startswith(MATRIX[arch])) > 0
    return from_bits(run.outputs[1], x.dtype), run


def weights_and_x(
    row: QuantType, n: int, columns: int, rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """At least so many columns."""
    blocks = -(-columns // row.block_size)
    qweight = torch.from_numpy(random_blocks(row, n * blocks)).view(n, -1)
    return qweight, torch.randn(rows, blocks * row.block_size)


def assert_is_product(
    got: torch.Tensor,
    x: torch.Tensor,
    row: QuantType,
    qweight: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> None:
    """The float64 product of the rounded activations, up to float32 sums and one rounding."""
    values = quant_ops.dequantize(qweight, row.id).double()
    want = product_of_rounded(x, values, middles(row, qweight))
    size = x.double().abs() @ values.abs().T
    if bias is not None:
        want, size = want + bias.double(), size + bias.double().abs()
    allowed = 1e-5 * size + torch.finfo(got.dtype).eps * want.abs()
    assert ((got.double() - want).abs() <= allowed).all()


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
    """Zeros are nothing; an infinity or a NaN is not lost, and stays in its row."""
    row = named("Q4_0")
    qweight, x = weights_and_x(row, 3, 288, 5)
    x[0, 5], x[1, 40], x[2] = float("nan"), float("inf"), 0
    got, _ = multirow(emulator, "gfx1100", row, x, qweight)
    assert not got[:2].isfinite().any()
    assert (got[2] == 0).all()
    assert_is_product(got[2:], x[2:], row, qweight)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("name", ["Q4_K", "IQ3_S"])
@pytest.mark.parametrize("rows", [3, 10])
def test_gated(emulator: Emulator, arch: str, name: str, rows: int) -> None:
    row = named(name)
    qweight, x = weights_and_x(row, 22, 512, rows)
    bias = torch.randn(22)
    values = quant_ops.dequantize(qweight, row.id).double()
    product = product_of_rounded(x, values, middles(row, qweight))
    gates, ups = (product + bias).split(11, dim=1)
    # What float32 sums may be off by, and how far that changes the result: no slope exceeds 1.13.
    sums = 1e-5 * (x.double().abs() @ values.abs().T + bias.abs())
    gate_error, up_error = sums.split(11, dim=1)
    acts: list[Callable[[torch.Tensor], torch.Tensor]] = [
        F.silu,
        partial(F.gelu, approximate="tanh"),
    ]
    for gate, act in enumerate(acts):
        got, _ = multirow(emulator, arch, row, x, qweight, 0, bias, gate)
        allowed = 1.13 * gate_error * ups.abs() + act(gates).abs() * up_error
        assert ((got.double() - act(gates) * ups).abs() <= allowed + 1e-6).all()
