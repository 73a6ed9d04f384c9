"""The CPU kernels of `quant_matmul` and `quant_matmul_transposed`, against float64 products."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import pytest
import torch

import rocmforge_torch
from rocmforge_torch.ops.reference import quant_ops
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.quant_blocks import HALF_SCALES, named, random_blocks

ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
FLOATS = ("F32", "F16", "BF16")
by_name = pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
ROWS = [1, 2, 3, 8, 17, 64]
EXACT, FAST = 1e-10, 1e-4
# Products below this many multiplications are computed in float on both paths.
SMALL = 1 << 17
quant_matmul = torch.ops.rocmforge.quant_matmul


@pytest.fixture(params=[True, False], ids=["exact", "fast"])
def is_exact(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Both paths in turn."""
    before = rocmforge_torch.config.exact
    rocmforge_torch.config.exact = request.param
    yield request.param
    rocmforge_torch.config.exact = before


def nmse(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    return float((got.double() - want).pow(2).sum() / want.pow(2).sum())


def whole_blocks(row: QuantType, k: int) -> int:
    return -(-k // row.block_size) * row.block_size


def make_weights(row: QuantType, n: int, k: int) -> torch.Tensor:
    return torch.from_numpy(random_blocks(row, n * k // row.block_size)).view(n, -1)


@functools.lru_cache(maxsize=16)
def weights_and_values(row: QuantType, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    qweight = make_weights(row, n, k)
    return qweight, quant_ops.dequantize(qweight, row.id).double()


def make_problem(
    row: QuantType, m: int, n: int, k: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Activations [m, k], weights [n, row_bytes] and their float64 product."""
    torch.manual_seed(m + n + k)
    x = torch.randn(m, k)
    qweight, values = weights_and_values(row, n, k)
    return x, qweight, x.double() @ values.T


@by_name
def test_exact_path(row: QuantType, exact: None) -> None:
    for (n, blocks), m in itertools.product(((1, 1), (7, 3), (33, 5)), ROWS):
        x, qweight, want = make_problem(row, m, n, whole_blocks(row, 96) * blocks)
        assert nmse(quant_matmul(x, qweight, row.id), want) <= EXACT


@by_name
def test_fast_path(row: QuantType) -> None:
    limit = EXACT if row.name in FLOATS else FAST
    shapes = ((1, 32), (5, 96), (33, 160), (130, 1056), (259, 640))
    for (n, least_k), m in itertools.product(shapes, ROWS):
        k = whole_blocks(row, least_k)
        x, qweight, want = make_problem(row, m, n, k)
        error = nmse(quant_matmul(x, qweight, row.id), want)
        assert error <= (EXACT if m * n * k < SMALL else limit), (m, n, k, error)
        if row.name not in FLOATS and m * n * k >= SMALL:
            assert error > EXACT, "integer dot products are what the fast path is"


@by_name
def test_dot_products_are_those_of_rounded_activations(row: QuantType) -> None:
    """With activations that 8 bits hold exactly, the fast path is as good as the exact one."""
    if row.name in FLOATS:
        return
    for m, n in ((1, 35), (2, 35), (3, 35), (8, 35), (15, 35)):
        k = whole_blocks(row, 4096)
        x = torch.randint(-127, 128, (m, k)).float()
        x[:, ::32] = 127
        x *= torch.exp2(torch.randint(-3, 3, (m, k // 32)).float()).repeat_interleave(32, dim=1)
        qweight, values = weights_and_values(row, n, k)
        assert nmse(quant_matmul(x, qweight, row.id), x.double() @ values.T) <= EXACT


@by_name
def test_extreme_codes(row: QuantType) -> None:
    """Bytes of one value: the largest sums that integer accumulators meet."""
    n, k = 20, whole_blocks(row, 8192)
    for byte in (0x00, 0x7F, 0x80, 0xFF):
        qweight = make_weights(row, n, k).clone()
        blocks = qweight.view(-1, row.block_bytes)
        if row.name in HALF_SCALES:
            offset, halves = HALF_SCALES[row.name]
            blocks[:, :offset] = byte
            blocks[:, offset + 2 * halves :] = byte
        elif row.name in ("Q8_K", "MXFP4", "NVFP4"):
            blocks[:, 4 if row.name != "MXFP4" else 1 :] = byte
        values = quant_ops.dequantize(qweight, row.id).double()
        for m in (1, 5):
            x = torch.full((m, k), 3.0)
            want = x.double() @ values.T
            size = x.double() @ values.abs().T
            error = (quant_matmul(x, qweight, row.id).double() - want).abs()
            assert (error <= 1e-5 * size).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("m", [1, 2, 3, 9])
def test_dtypes_bias_and_views(dtype: torch.dtype, m: int, is_exact: bool) -> None:
    row = named("Q5_0")
    n, k = 147, 1024
    store = torch.randn(k, 2 * m, dtype=torch.float32).to(dtype)
    x = store.T[::2]
    assert not x.is_contiguous() or m == 1
    qweight = make_weights(row, 2 * n, k + 64)[::2, : k // 32 * 22]
    dense = quant_ops.dequantize(qweight, row.id).double()
    for bias in (None, torch.randn(n).to(dtype), torch.randn(2 * n)[::2]):
        want = x.double() @ dense.T + (0 if bias is None else bias.double())
        got = quant_matmul(x, qweight, row.id, bias)
        assert got.dtype == dtype
        rounding = {torch.float32: 0, torch.float16: 2**-11, torch.bfloat16: 2**-8}[dtype]
        assert nmse(got, want) <= (EXACT if is_exact else FAST) + rounding**2


def test_half_results_are_the_rounded_float32() -> None:
    row = named("Q4_K")
    for dtype in (torch.float16, torch.bfloat16):
        for m in (1, 6):
            x = torch.randn(m, 1024).to(dtype)
            qweight = make_weights(row, 200, 1024)
            want = quant_matmul(x.float(), qweight, row.id).to(dtype)
            assert torch.equal(quant_matmul(x, qweight, row.id), want)


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K", "Q6_K", "F16", "IQ3_S"])
def test_results_do_not_depend_on_threads_or_company(name: str, is_exact: bool) -> None:
    """Bit for bit: whatever the threads, and for a weight row whatever rows stand around it."""
    row = named(name)
    threads = torch.get_num_threads()
    for m in (1, 2, 13):
        x, qweight, _ = make_problem(row, m, 403, 1024)
        want = quant_matmul(x, qweight, row.id)
        for count in (1, 2, 3, 5):
            torch.set_num_threads(count)
            assert torch.equal(quant_matmul(x, qweight, row.id), want)
        assert torch.equal(quant_matmul(x, qweight[5:397], row.id), want[:, 5:397])
        g = torch.randn(3, 403)
        back = torch.ops.rocmforge.quant_matmul_transposed(g, qweight, row.id)
        torch.set_num_threads(1)
        assert torch.equal(torch.ops.rocmforge.quant_matmul_transposed(g, qweight, row.id), back)
        torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", [(1024,), (2, 3, 1024), (0, 1024), (2, 0, 1024)], ids=str)
def test_leading_dimensions(shape: tuple[int, ...]) -> None:
    row = named("Q8_0")
    x = torch.randn(shape)
    qweight = make_weights(row, 130, 1024)
    got = quant_matmul(x, qweight, row.id)
    assert got.shape == (*shape[:-1], 130)
    want = x.double() @ quant_ops.dequantize(qweight, row.id).double().T
    assert x.numel() == 0 or nmse(got, want) <= FAST


def test_empty_weights() -> None:
    empty = torch.empty(0, 34, dtype=torch.uint8)
    assert quant_matmul(torch.randn(3, 32), empty, 8).shape == (3, 0)
    narrow = torch.empty(5, 0, dtype=torch.uint8)
    bias = torch.randn(5)
    got = quant_matmul(torch.randn(3, 0), narrow, 8, bias)
    assert torch.equal(got, bias.expand(3, 5))
    back = torch.ops.rocmforge.quant_matmul_transposed(torch.randn(3, 0), empty, 8)
    assert torch.equal(back, torch.zeros(3, 32))


@pytest.mark.parametrize("m", [1, 4])
def test_activations_out_of_range_show(m: int) -> None:
    """A NaN or an infinity among the activations is never rounded away; zeros are exact."""
    row = named("Q8_0")
    qweight = make_weights(row, 300, 1024)
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = torch.randn(m, 1024)
        x[-1, 77] = bad
        got = quant_matmul(x, qweight, row.id)
        assert not got[-1].isfinite().any()
        assert got[:-1].isfinite().all()
    assert torch.equal(quant_matmul(torch.zeros(m, 1024), qweight, row.id), torch.zeros(m, 300))
    for scale in (1e-30, 1e30):
        x = torch.randn(m, 1024)
        want = quant_matmul(x, qweight, row.id).double() * scale
        assert nmse(quant_matmul(x * scale, qweight, row.id), want) <= EXACT


@pytest.mark.parametrize("m", [1, 3, 8])
@by_name
def test_transposed(row: QuantType, m: int) -> None:
    for n, blocks in ((1, 1), (7, 3), (530, 2)):
        k = row.block_size * blocks if row.block_size > 1 else 37 * blocks
        qweight = make_weights(row, 2 * n, k)[::2]
        g = torch.randn(n, m).T
        want = g.double() @ quant_ops.dequantize(qweight, row.id).double()
        got = torch.ops.rocmforge.quant_matmul_transposed(g, qweight, row.id)
        assert nmse(got, want) <= EXACT


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_transposed_in_half_precision(dtype: torch.dtype) -> None:
    row = named("Q6_K")
    qweight = make_weights(row, 90, 1280)
    g = torch.randn(2, 3, 90).to(dtype)
    got = torch.ops.rocmforge.quant_matmul_transposed(g, qweight, row.id)
    want = torch.ops.rocmforge.quant_matmul_transposed(g.float(), qweight, row.id)
    assert got.dtype == dtype
    assert torch.equal(got, want.to(dtype))


Q8 = torch.zeros(4, 34, dtype=torch.uint8)
X = torch.zeros(2, 32)
BAD_PRODUCTS = [
    ((X, Q8[0], 8), "qweight must have 2 dimensions [rows, row_bytes], got [34]"),
    ((X, Q8.float(), 8), "qweight must be uint8, got float32"),
    ((X, Q8, 1000), "qtype 1000 is not a GGML type of floating point values"),
    (
        (X, Q8[:, :33], 8),
        "qweight rows must be a multiple of 34 bytes (one Q8_0 block of 32 elements), got 33",
    ),
    ((X.double(), Q8, 8), "x must be float32 or float16 or bfloat16, got float64"),
    ((X[0, 0], Q8, 8), "x must have at least 1 dimension(s), got shape []"),
    ((X[:, :16], Q8, 8), "x has 16 features but a row of qweight holds 32 elements"),
    ((X, Q8, 8, torch.zeros(3)), "bias must have shape [4], got [3]"),
    (
        (X, Q8, 8, torch.zeros(4).half()),
        "bias must be float32 as x is, or float32, got float16",
    ),
    (
        (X, Q8, 8, None, 2),
        "layout must be 0 (blocks as the file has them) or 1 (packed), got 2",
    ),
]


@pytest.mark.parametrize(("args", "sentence"), BAD_PRODUCTS)
def test_bad_input_gets_one_sentence(args: tuple[object, ...], sentence: str) -> None:
    with pytest.raises(RuntimeError) as error:
        quant_matmul(*args)
    assert str(error.value) == f"rocmforge::quant_matmul: {sentence}"


def test_bad_input_of_the_transposed_product() -> None:
    with pytest.raises(RuntimeError) as error:
        torch.ops.rocmforge.quant_matmul_transposed(torch.zeros(2, 5), Q8, 8)
    sentence = "g has 5 features but qweight has 4 rows"
    assert str(error.value) == f"rocmforge::quant_matmul_transposed: {sentence}"
