"""What the kernels are on NVIDIA, run on the host: rings of copies, matrix units, early reads."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from attention_cases import Case, assert_right, make
from emulated_tensors import DTYPE_CODES
from numpy.typing import NDArray
from on_nvidia import OnNvidia
from quantized_products import assert_is_product, check_gated_products
from test_emulated_attention import OPTIONS
from test_emulated_attention import run as run_attention
from test_multirow import check_normed, multirow
from test_quants import assert_is_normed_product, matvec, normed_matvec, weights_and_x
from test_tile import assert_is_half_product, check_gated, check_normed_rows, tile, weights

from rocmforge_torch.ops.reference import pack_weight
from rocmforge_torch.quant_types import QuantType
from tests.ops.quant_blocks import named
from tools.nvidia import SimulationError, Simulator

ARCH = "sm_90"
TYPES = [named(name) for name in ("Q4_0", "Q4_K", "IQ2_S", "MXFP4")]  # one of every family
every_type = pytest.mark.parametrize("row", TYPES, ids=lambda row: row.name)


@pytest.fixture(scope="module")
def nvidia(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnNvidia]:
    try:
        simulator = Simulator(tmp_path_factory.mktemp("nvidia"))
    except SimulationError as error:
        pytest.skip(str(error))
    yield OnNvidia(simulator)
    simulator.close()


@every_type
@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize(("num_rows", "blocks"), [(5, 3), (3, 33), (90, 1)])
def test_matvec(nvidia: OnNvidia, row: QuantType, rows: int, num_rows: int, blocks: int) -> None:
    """Waves that share a pair of rows, and waves that walk over several."""
    qweight, x = weights_and_x(row, num_rows, blocks, rows)
    got, _ = matvec(nvidia, ARCH, row, x, qweight, 0)
    assert_is_product(got, x, row, qweight)
    assert torch.equal(matvec(nvidia, ARCH, row, x, pack_weight(qweight, row.id), 1)[0], got)


@every_type
def test_gated_matvec(nvidia: OnNvidia, row: QuantType) -> None:
    qweight, x = weights_and_x(row, 10, 2, 1)
    check_gated_products(
        row,
        qweight,
        x,
        lambda bias, gate: matvec(nvidia, ARCH, row, x, qweight, 0, bias, gate)[0],
    )


@pytest.mark.parametrize(
    ("row", "dtype"),
    [(TYPES[0], dtype) for dtype in DTYPE_CODES] + [(row, torch.float32) for row in TYPES[1:]],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_normed_matvec(nvidia: OnNvidia, row: QuantType, dtype: torch.dtype) -> None:
    """More columns than the threads of a block take at once."""
    qweight, x = weights_and_x(row, 3, 33, 1)
    x = x.to(dtype)
    residual, weight = torch.randn_like(x), torch.randn(x.shape[1])
    planes = pack_weight(qweight, row.id)
    got, total = normed_matvec(nvidia, ARCH, row, x, planes, residual, weight)
    assert torch.equal(total, x + residual)
    assert_is_normed_product(got, total, weight, row, qweight)


@every_type
@pytest.mark.parametrize(("n", "columns", "rows"), [(19, 288, 3), (3, 8448, 12), (200, 256, 9)])
def test_multirow(nvidia: OnNvidia, row: QuantType, n: int, columns: int, rows: int) -> None:
    qweight, x = weights_and_x(row, n, -(-columns // 256), rows)
    bias = torch.randn(n)
    got, _ = multirow(nvidia, ARCH, row, x, qweight, 0, bias)
    assert_is_product(got, x, row, qweight, bias)
    assert torch.equal(multirow(nvidia, ARCH, row, x, qweight, 1, bias)[0], got)


@every_type
@pytest.mark.parametrize("rows", [5, 9])
def test_normed_rows(nvidia: OnNvidia, row: QuantType, rows: int) -> None:
    qweight, x = weights_and_x(row, 3, 17, rows)
    check_normed(nvidia, ARCH, row, x, qweight, torch.randn_like(x), torch.randn(x.shape[1]))


@every_type
@pytest.mark.parametrize(
    ("n", "blocks", "rows", "splits"),
    [(37, 3, 5, 1), (21, 2, 16, 1), (270, 4, 64, 1), (37, 9, 70, 3), (21, 2, 18, 9)],
)
def test_tile(
    nvidia: OnNvidia, row: QuantType, n: int, blocks: int, rows: int, splits: int
) -> None:
    """Chunks of 8, 16 and 64 rows of x, rows of w and columns that no tile or split ends at."""
    qweight, values = weights(row, n, blocks * 256 // row.block_size)
    x, bias = torch.randn(rows, values.shape[1]), torch.randn(n)
    got, _ = tile(nvidia, ARCH, row, x, qweight, 0, bias, splits)
    assert_is_half_product(got, x, values, bias)
    assert torch.equal(tile(nvidia, ARCH, row, x, qweight, 1, bias, splits)[0], got)


@every_type
@pytest.mark.parametrize(("rows", "splits"), [(5, 1), (40, 1), (66, 2)])
def test_gated_tile(nvidia: OnNvidia, row: QuantType, rows: int, splits: int) -> None:
    check_gated(nvidia, ARCH, row, rows, 56, splits)


@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
def test_normed_tile_rows(nvidia: OnNvidia, dtype: torch.dtype) -> None:
    """One part of a row, and more than one."""
    for columns in (288, 9000):
        x = (torch.randn(3, columns) * 100).to(dtype)
        check_normed_rows(nvidia, ARCH, x, torch.randn_like(x), torch.randn(columns))
        check_normed_rows(nvidia, ARCH, x, None, None)


CACHES = ("f16", "q8_0")
CASES = [
    Case((300, 19), heads=8),  # merged, and done by one block
    Case((300, 0), 2, q_dtype=torch.bfloat16),
    Case((64, 1, 257, 256), heads=4),
    Case((90, 270), 4, heads=8),
    Case((70, 19), 21),  # tiles
    *(Case((280, 0), 2, block_size=16, options=options) for options in OPTIONS),
    *(Case((75,), queries, 2, 1, dim) for queries in (1, 17) for dim in (192, 256)),
    *(Case((75, 300), queries, 4, 2, 128) for queries in (3, 7)),  # eight and 16 rows to a tile
]
ODD = [  # heads that blocks do not fit
    *(Case((40, 3), 5, head_dim=72, value_dim=40, options=options) for options in OPTIONS),
    *(Case((75,), queries, 2, 1, 120) for queries in (1, 17)),
]


@pytest.mark.parametrize(
    ("case", "name"),
    [
        *itertools.product(CASES, CACHES),
        *((case, "f16") for case in ODD),
        *((case, "q4_0") for case in (*CASES[:3], *CASES[-2:])),
    ],
    ids=str,
)
def test_attention(nvidia: OnNvidia, name: str, case: Case) -> None:
    case = replace(case, k_format=name)
    call = make(case)
    got, _ = run_attention(nvidia, ARCH, case, call, False)
    assert_right(got, case, call, False)


@pytest.mark.parametrize("name", [*CACHES, "e4m3", "q4_0"])
@pytest.mark.parametrize("case", CASES[:4], ids=str)
def test_early_reads_of_the_cache(nvidia: OnNvidia, name: str, case: Case) -> None:
    """Queries, and keys and values of their tokens, come from a kernel that still runs."""
    case = replace(case, k_format=name)
    call = make(case)
    new = np.zeros(call.k.shape[:3], bool)
    for row, length in zip(new, case.seq_lens, strict=True):
        row[max(length - case.queries, 0) : length] = True
    caches = {i: of_bytes(new, cache) for i, cache in ((1, call.k), (2, call.v))}
    nvidia.late = {0: of_bytes(np.ones(call.q.shape[:3], bool), call.q), **caches}
    try:
        got, _ = run_attention(nvidia, ARCH, case, call, False, at_rest=True)
    finally:
        nvidia.late = {}
    assert_right(got, case, call, False)


def of_bytes(heads: NDArray[np.bool_], tensor: torch.Tensor) -> NDArray[np.bool_]:
    """The same for every byte of the heads of a contiguous tensor."""
    return heads.ravel().repeat(tensor.shape[-1] * tensor.element_size())


def test_late_memory_is_poison(nvidia: OnNvidia) -> None:
    """Who does not wait shows it: without the promise attention waits first, with it for what it
    has been told of alone."""
    case = Case((300, 19), heads=8)
    call = make(case)
    nvidia.late = {1: np.ones(call.k.numel() * 2, bool)}  # all keys, old ones too
    try:
        waits, _ = run_attention(nvidia, ARCH, case, call, False)
        reads, _ = run_attention(nvidia, ARCH, case, call, False, at_rest=True)
    finally:
        nvidia.late = {}
    assert_right(waits, case, call, False)
    assert reads.isnan().any()
