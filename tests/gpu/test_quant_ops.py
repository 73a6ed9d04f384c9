"""The quantized ops on the GPU against float64 products with the reference weights."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator

import pytest
import torch

import rocmforge_torch
from rocmforge_torch.ops.reference import pack_weight, quant_ops
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.gpu.quant_cases import FEW
from tests.ops.quant_blocks import as_rows, extreme_blocks, named, random_blocks
from tests.ops.rounded_activations import middles, product_of_rounded

pytestmark = pytest.mark.gpu
ops = torch.ops.rocmforge
ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
QUANTIZED = [row for row in ALL if row.is_quantized]
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 64, 65, 128, 200, 512)
TILE = 128  # rows that are multiplied on matrix units by weights decoded to float16
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}
SUBNORMAL = {torch.float32: 0.0, torch.float16: 2.0**-24, torch.bfloat16: 0.0}
FAST = 1e-4  # NMSE of the contract
PLAIN = named("F32")  # no integer dot products
by_name = pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)


@pytest.fixture(params=[False, True], ids=["fast", "exact"])
def is_exact(request: pytest.FixtureRequest) -> Iterator[bool]:
    before = rocmforge_torch.config.exact
    rocmforge_torch.config.exact = request.param
    yield request.param
    rocmforge_torch.config.exact = before


@pytest.fixture(autouse=True)
def poison_memory() -> None:
    """Memory that the allocator hands out next is full of NaN: what is not written shows."""
    torch.full((1 << 24,), float("nan"), device="cuda")


@functools.lru_cache(maxsize=8)
def weights(row: QuantType, n: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """qweight [n, row_bytes] and its values in float64, on the GPU."""
    qweight = torch.from_numpy(random_blocks(row, n * k // row.block_size)).view(n, -1)
    return qweight.cuda(), quant_ops.dequantize(qweight, row.id).double().cuda()


def whole_blocks(row: QuantType, k: int) -> int:
    return -(-k // row.block_size) * row.block_size


def shapes(row: QuantType) -> list[tuple[int, int]]:
    """[n, k] at the edges of waves, tiles and steps."""
    block = max(row.block_size, 32)
    return [(1, block), (3, 3 * block), (16, 16 * block), (33, 5 * block), (130, 9 * block)]


def nmse(got: torch.Tensor, want: torch.Tensor) -> float:
    assert got.shape == want.shape
    assert got.isfinite().all()
    return float((got.double() - want).pow(2).sum() / want.pow(2).sum())


def as_half(t: torch.Tensor) -> torch.Tensor:
    """The rows of t as float16 holds them, each under a power of two."""
    largest = t.double().abs().amax(-1, keepdim=True).clamp(min=1e-300)
    power = torch.exp2(14 - largest.log2().floor())
    return (t.double() * power).half().double() / power


def assert_is_product(
    got: torch.Tensor,
    x: torch.Tensor,
    values: torch.Tensor,
    is_exact: bool,
    row: QuantType,
    bias: torch.Tensor | None = None,
    middle: torch.Tensor | None = None,
) -> None:
    """Each result is as near to the float64 product as the arithmetic of its path allows.

    Up to FEW rows: the product of the rounded activations, summed in float32; types with a
    minimum need their `middle`. Up to TILE rows: no more than twice the error of a product in
    float16. More rows: factors rounded to x's dtype, or float32 if that is asked for.
    """
    dtype = x.dtype
    rows = x.numel() // x.shape[-1]
    in_kernel = row.is_quantized and not is_exact
    few, tile = in_kernel and rows <= FEW, in_kernel and FEW < rows <= TILE
    middle = torch.zeros_like(values) if middle is None else middle
    want = product_of_rounded(x, values, middle) if few else x.double() @ values.T
    size = x.double().abs() @ values.abs().T
    error_of_sum = 1e-5 if few or is_exact else max(4e-6, 2 * ROUNDING[dtype])
    if tile:
        error_of_sum = 2 * 2 * ROUNDING[torch.float16]  # either factor's
    if bias is not None:
        want = want + bias.double()
        size = size + bias.double().abs()
    assert got.dtype == dtype
    assert got.shape == want.shape
    error = (got.double() - want).abs()
    allowed = error_of_sum * size + 2 * ROUNDING[dtype] * want.abs()
    smallest = SUBNORMAL[torch.float16 if tile else dtype]
    allowed = allowed + smallest * (1 + x.double().abs().sum(-1, keepdim=True))
    assert (error <= allowed).all(), float((error / allowed).max())
    if (few or tile) and bias is None and want.numel() >= 500:
        assert nmse(got, x.double() @ values.T) <= FAST
    if tile and bias is None and want.numel() >= 500:
        half = (as_half(x) @ values.half().double().T).to(dtype).double()
        assert error.norm() <= 2 * (half - want).norm()


def activations(m: int, values: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Random x [m, K] whose products with the values are of ordinary size in any dtype."""
    k = values.shape[1]
    x = torch.randn(m, k, device="cuda")
    return (x * (16 / (values.abs().max().float() * k**0.5)).clamp(max=1)).to(dtype)


@by_name
@pytest.mark.parametrize("layout", [0, 1], ids=["file", "packed"])
def test_quant_matmul(row: QuantType, layout: int, is_exact: bool) -> None:
    """Every number of rows at every shape, in a dtype and with a bias that vary with them."""
    for i, ((n, k), m) in enumerate(itertools.product(shapes(row), ROWS)):
        torch.manual_seed(i)
        dtype = DTYPES[i % 3]
        qweight, values = weights(row, n, k)
        middle = middles(row, qweight)
        if layout == 1:
            qweight = ops.pack_weight(qweight, row.id)
        x = activations(m, values, dtype)
        biases = (None, torch.randn(n, device="cuda"), torch.randn(n, device="cuda").to(dtype))
        bias = biases[i // 3 % 3]
        got = ops.quant_matmul(x, qweight, row.id, bias, layout)
        assert_is_product(got, x, values, is_exact, row, bias, middle)


@by_name
def test_exact_products_in_float32(row: QuantType, exact: None) -> None:
    for (n, k), m in itertools.product(shapes(row), (1, 2, 9, 64)):
        qweight, values = weights(row, n, k)
        x = torch.randn(m, k, device="cuda")
        assert nmse(ops.quant_matmul(x, qweight, row.id), x.double() @ values.T) <= 1e-10


@pytest.mark.parametrize("row", QUANTIZED, ids=lambda row: row.name)
def test_dot_products_are_those_of_rounded_activations(row: QuantType) -> None:
    """With activations that 8 bits hold exactly, integer dot products are as good as exact ones."""
    n, k = 35, whole_blocks(row, 4096)
    qweight, values = weights(row, n, k)
    planes = ops.pack_weight(qweight, row.id)
    for m in range(1, FEW + 1):
        x = torch.randint(-127, 128, (m, k), device="cuda").float()
        x[:, ::32] = 127
        scales = torch.exp2(torch.randint(-3, 3, (m, k // 32), device="cuda").float())
        x *= scales.repeat_interleave(32, dim=1)
        got = ops.quant_matmul(x, qweight, row.id)
        assert nmse(got, x.double() @ values.T) <= 1e-10
        assert torch.equal(ops.quant_matmul(x, planes, row.id, None, 1), got)


def assert_same_values(got: torch.Tensor, want: torch.Tensor) -> None:
    """Equal to the bit, with any NaN for a NaN."""
    got = got.cpu()
    assert got.dtype == want.dtype
    assert torch.equal(got.isnan(), want.isnan())
    number = ~want.isnan()
    kind = torch.int32 if want.dtype == torch.float32 else torch.int16
    assert torch.equal(got[number].view(kind), want[number].view(kind))


@by_name
def test_dequantize_is_bit_exact(row: QuantType) -> None:
    for blocks in (random_blocks(row, 192), extreme_blocks(row)):
        qweight = torch.from_numpy(as_rows(row, blocks, 8))
        for dtype in DTYPES:
            want = quant_ops.dequantize(qweight, row.id, dtype)
            assert_same_values(ops.dequantize(qweight.cuda(), row.id, dtype), want)


@by_name
def test_embedding(row: QuantType) -> None:
    k = whole_blocks(row, 96)
    qweight, values = weights(row, 41, k)
    for ids in (torch.tensor([40, 0, 7, 7]), torch.randint(0, 41, (2, 3), dtype=torch.int32)):
        for dtype in DTYPES:
            got = ops.quant_embedding(ids.cuda(), qweight, row.id, dtype)
            assert_same_values(got, values.float().cpu().to(dtype)[ids])
    outside = ops.quant_embedding(torch.tensor([41, -1]).cuda(), qweight, row.id, torch.float32)
    assert outside.isnan().all()


@by_name
def test_packing_is_invertible(row: QuantType) -> None:
    for n, k in shapes(row):
        qweight, _ = weights(row, n, k)
        planes = ops.pack_weight(qweight, row.id)
        assert planes.shape == qweight.shape
        assert torch.equal(ops.unpack_weight(planes, row.id), qweight)
        assert torch.equal(planes.cpu(), pack_weight(qweight.cpu(), row.id))


@by_name
def test_transposed(row: QuantType, is_exact: bool) -> None:
    for (n, k), m in itertools.product(shapes(row), (1, 3, 64)):
        qweight, values = weights(row, n, k)
        for dtype in DTYPES:
            g = activations(m, values.T, dtype)
            got = ops.quant_matmul_transposed(g, qweight, row.id)
            assert_is_product(got, g, values.T, is_exact, PLAIN)


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "MXFP4", "IQ3_S", "F16", "F32"])
@pytest.mark.parametrize("m", [1, 3, 9])
def test_views(name: str, m: int, is_exact: bool) -> None:
    """Rows apart, slices of rows and columns, odd addresses, columns of a matrix as x."""
    row = named(name)
    k = whole_blocks(row, 256)
    block = row.block_bytes * (32 if not row.is_quantized else 1)
    wide, _ = weights(row, 40, k + 2 * whole_blocks(row, 32))
    odd = torch.empty(wide.numel() + 1, dtype=torch.uint8, device="cuda")[1:].view_as(wide)
    odd.copy_(wide)
    for view in (wide, wide[::2], wide[5:, block:], wide[3:37:3, block:-block], odd, odd[1::2]):
        values = quant_ops.dequantize(view.cpu(), row.id).double().cuda()
        x = torch.randn(values.shape[1], 2 * m, device="cuda").T[::2]
        got, middle = ops.quant_matmul(x, view, row.id), middles(row, view)
        assert_is_product(got, x, values, is_exact, row, middle=middle)
        assert torch.equal(ops.dequantize(view, row.id, torch.float32).double(), values)
        g = torch.randn(m, len(values), device="cuda")
        back = ops.quant_matmul_transposed(g, view, row.id)
        assert nmse(back, g.double() @ values) <= 1e-10


@pytest.mark.parametrize("shape", [(256,), (2, 3, 256), (0, 256), (2, 0, 256)], ids=str)
def test_leading_dimensions(shape: tuple[int, ...], is_exact: bool) -> None:
    row = named("Q8_0")
    qweight, values = weights(row, 30, 256)
    x = torch.randn(shape, device="cuda")
    got = ops.quant_matmul(x, qweight, row.id)
    assert got.shape == (*shape[:-1], 30)
    if x.numel():
        assert_is_product(got, x, values, is_exact, row)


def test_empty_weights(is_exact: bool) -> None:
    empty = torch.empty(0, 34, dtype=torch.uint8, device="cuda")
    x = torch.randn(3, 32, device="cuda")
    assert ops.quant_matmul(x, empty, 8).shape == (3, 0)
    narrow = torch.empty(5, 0, dtype=torch.uint8, device="cuda")
    bias = torch.randn(5, device="cuda")
    got = ops.quant_matmul(torch.randn(3, 0, device="cuda"), narrow, 8, bias)
    assert torch.equal(got, bias.expand(3, 5))
    back = ops.quant_matmul_transposed(torch.randn(3, 0, device="cuda"), empty, 8)
    assert torch.equal(back, torch.zeros(3, 32, device="cuda"))


@pytest.mark.parametrize("m", [1, 4, 20, 300])
def test_activations_out_of_range_show(m: int) -> None:
    """A NaN or an infinity among the activations is never rounded away; zeros are exact."""
    row = named("Q8_0")
    qweight, _ = weights(row, 300, 1024)
    for bad in (float("nan"), float("inf"), -float("inf")):
        x = torch.randn(m, 1024, device="cuda")
        x[-1, 77] = bad
        got = ops.quant_matmul(x, qweight, row.id)
        assert not got[-1].isfinite().any()
        assert got[:-1].isfinite().all()
    zeros = ops.quant_matmul(torch.zeros(m, 1024, device="cuda"), qweight, row.id)
    assert torch.equal(zeros, torch.zeros(m, 300, device="cuda"))


@pytest.mark.parametrize("name", ["Q4_0", "Q8_0", "Q4_K", "Q6_K", "IQ2_XXS"])
@pytest.mark.parametrize("m", [1, 5, 33, 300])
def test_runs_are_bit_identical(name: str, m: int) -> None:
    row = named(name)
    qweight, values = weights(row, 300, 1024)
    x = activations(m, values, torch.float16)
    want = ops.quant_matmul(x, qweight, row.id)
    assert want.isfinite().all()
    assert all(torch.equal(ops.quant_matmul(x, qweight, row.id), want) for _ in range(100))


@pytest.mark.parametrize("m", [1, 8, 40, 300])
def test_products_in_a_captured_graph(m: int) -> None:
    row = named("Q4_K")
    qweight, values = weights(row, 96, 1024)
    middle = middles(row, qweight)
    x = torch.randn(m, 1024, device="cuda")
    ops.quant_matmul(x, qweight, row.id)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = ops.quant_matmul(x, qweight, row.id)
    for _ in range(3):
        x.copy_(torch.randn(m, 1024))
        graph.replay()
        assert_is_product(out, x, values, False, row, middle=middle)


def test_weights_larger_than_the_scratch(exact: None) -> None:
    """Several parts, the last one short: the scratch holds 256 MB."""
    row = named("Q8_0")
    qweight = torch.from_numpy(random_blocks(row, 64 * 128)).view(64, -1).cuda()
    qweight = qweight.repeat(301, 1)
    values = quant_ops.dequantize(qweight[:64].cpu(), row.id).double().cuda()
    x = torch.randn(12, 4096, device="cuda")
    want = (x.double() @ values.T).repeat(1, 301)
    assert nmse(ops.quant_matmul(x, qweight, row.id), want) <= 1e-10
    g = torch.randn(2, len(qweight), device="cuda")
    summed = g.double().view(2, 301, 64).sum(1)
    assert nmse(ops.quant_matmul_transposed(g, qweight, row.id), summed @ values) <= 1e-9


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((32, (4, 33), 8), "qweight rows must be a multiple of 34 bytes"),
        ((16, (4, 34), 8), "x has 16 features but a row of qweight holds 32 elements"),
        ((32, (4, 34), 1000), "qtype 1000 is not a GGML type of floating point values"),
        ((32, (34,), 8), r"qweight must have 2 dimensions \[rows, row_bytes\], got \[34\]"),
    ],
)
def test_bad_input_gets_one_sentence(
    arguments: tuple[int, tuple[int, ...], int], sentence: str
) -> None:
    k, shape, qtype = arguments
    qweight = torch.zeros(shape, dtype=torch.uint8, device="cuda")
    with pytest.raises(RuntimeError, match=f"rocmforge::quant_matmul: {sentence}"):
        ops.quant_matmul(torch.zeros(2, k, device="cuda"), qweight, qtype)
