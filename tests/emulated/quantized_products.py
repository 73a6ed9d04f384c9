"""What tests of products with quantized weights share: families, arguments, what is right."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from emulated_tensors import DTYPE_CODES, give, take

from rocmforge_torch.ops.reference import quant_ops
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.rounded_activations import middles, product_of_rounded
from tools.amd.emulator import Struct
from tools.amd.emulator.messages import Buffer
from tools.amd.toolchain import CSRC

Field = tuple[str, Buffer | Struct | int | float]
HIP = CSRC / "hip"
EPS = 1e-5  # of norms
# The families of csrc/hip/quants/table.h.
FAMILIES = {
    "simple": "Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q8_1 Q8_K Q1_0",
    "k": "Q2_K Q3_K Q4_K Q5_K Q6_K",
    "grid": "IQ1_S IQ1_M IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S",
    "small": "IQ4_NL IQ4_XS TQ1_0 TQ2_0 MXFP4 NVFP4",
}
FAMILY = {name: family for family, names in FAMILIES.items() for name in names.split()}
QUANTIZED = [row for row in map(QUANT_TYPES.__getitem__, FORMATS) if row.is_quantized]


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


def assert_is_product(
    got: torch.Tensor,
    x: torch.Tensor,
    row: QuantType,
    qweight: torch.Tensor,
    bias: torch.Tensor | None = None,
    factor: torch.Tensor | float = 1.0,
) -> None:
    """The float64 product of the rounded activations, times a factor of each row, up to float32
    sums and one rounding."""
    values = quant_ops.dequantize(qweight, row.id).double()
    want = factor * product_of_rounded(x, values, middles(row, qweight))
    size = factor * x.double().abs() @ values.abs().T
    if bias is not None:
        want, size = want + bias.double(), size + bias.double().abs()
    allowed = 1e-5 * size + torch.finfo(got.dtype).eps * want.abs()
    assert ((got.double() - want).abs() <= allowed).all()


def norm_fields(
    x: torch.Tensor, residual: torch.Tensor | None, weight: torch.Tensor | None
) -> Struct:
    """An InputNorm; its total is an output."""
    return Struct(
        [
            pointer(give(residual)),
            pointer(give(weight)),
            ("c_int", 0 if weight is None else DTYPE_CODES[weight.dtype]),
            ("c_float", EPS),
            pointer(take(tuple(x.shape), x.dtype)),
            ("c_bool", False),
        ]
    )


def assert_is_normed_product(
    got: torch.Tensor,
    total: torch.Tensor,
    weight: torch.Tensor | None,
    row: QuantType,
    qweight: torch.Tensor,
) -> None:
    """The norm multiplies what the kernel has summed: nothing is rounded in between."""
    scaled = total.float() if weight is None else total.float() * weight.float()
    factor = torch.rsqrt(total.double().square().mean(-1, keepdim=True) + EPS)
    assert_is_product(got, scaled, row, qweight, factor=factor)


def check_gated_products(
    row: QuantType,
    qweight: torch.Tensor,
    x: torch.Tensor,
    gated: Callable[[torch.Tensor, int], torch.Tensor],
) -> None:
    """gated(bias, number of the activation) is the gated product of rounded activations."""
    bias = torch.randn(len(qweight))
    values = quant_ops.dequantize(qweight, row.id).double()
    product = product_of_rounded(x, values, middles(row, qweight))
    gates, ups = (product + bias).chunk(2, dim=1)
    # What float32 sums may be off by, and how far that changes the result: no slope exceeds 1.13.
    sums = 1e-5 * (x.double().abs() @ values.abs().T + bias.abs())
    gate_error, up_error = sums.chunk(2, dim=1)
    acts: list[Callable[[torch.Tensor], torch.Tensor]] = [
        F.silu,
        partial(F.gelu, approximate="tanh"),
    ]
    for gate, act in enumerate(acts):
        got = gated(bias, gate)
        allowed = 1.13 * gate_error * ups.abs() + act(gates).abs() * up_error
        assert ((got.double() - act(gates) * ups).abs() <= allowed + 1e-6).all()


def check_special_activations(
    row: QuantType,
    qweight: torch.Tensor,
    x: torch.Tensor,
    product: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    """Zeros are nothing; an infinity or a NaN is not lost, and stays in its row."""
    x[0, 5], x[1, 40], x[2] = float("nan"), float("inf"), 0
    got = product(x)
    assert not got[:2].isfinite().any()
    assert (got[2] == 0).all()
    assert_is_product(got[2:], x[2:], row, qweight)
