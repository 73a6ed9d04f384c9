"""The reference of dequantize and of the products on quantized weights."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from rocmforge_torch.ops.reference import quant_ops
from rocmforge_torch.ops.reference.quants import codebooks, grids
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.quant_blocks import Bytes, as_rows, extreme_blocks, named, random_blocks
from tools import generate_codebooks

ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
NOT_IN_GGUF = ("Q8_1", "Q8_K", "Q1_0")
IN_GGUF = [row for row in ALL if row.name not in NOT_IN_GGUF]
by_name = pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)


def assert_same_bits(got: torch.Tensor, want: np.ndarray) -> None:
    """Equal float32 bit patterns, any NaN equal to any other."""
    values = got.numpy()
    assert values.dtype == want.dtype == np.float32
    assert values.shape == want.shape
    same = (values.view(np.uint32) == want.view(np.uint32)) | (np.isnan(values) & np.isnan(want))
    assert same.all(), f"{(~same).sum()} of {same.size} differ"


def test_every_type_has_a_format() -> None:
    integers = {"I8", "I16", "I32", "I64", "F64"}
    assert {row.name for row in ALL} == {row.name for row in QUANT_TYPES.values()} - integers


@pytest.mark.parametrize("make", [random_blocks, extreme_blocks], ids=["ordinary", "extreme"])
@pytest.mark.parametrize("row", IN_GGUF, ids=lambda row: row.name)
def test_dequantize_is_bit_exact_with_gguf(row: QuantType, make: Callable[..., Bytes]) -> None:
    blocks = make(row) if make is extreme_blocks else make(row, 252)
    qweight = as_rows(row, blocks, 3)
    with np.errstate(all="ignore"):
        want = gguf.quants.dequantize(qweight, gguf.GGMLQuantizationType(row.id))
    assert np.isfinite(want).any()
    assert (want != 0).any()
    assert_same_bits(quant_ops.dequantize(torch.from_numpy(qweight), row.id), want)


def q8_1_by_the_format(block: bytes) -> list[float]:
    d, _sum, *codes = struct.unpack("<ee32b", block)
    return [np.float32(d) * np.float32(q) for q in codes]


def q8_k_by_the_format(block: bytes) -> list[float]:
    d, *numbers = struct.unpack("<f256b16h", block)
    return [np.float32(d) * np.float32(q) for q in numbers[:256]]


def q1_0_by_the_format(block: bytes) -> list[float]:
    (d,) = struct.unpack_from("<e", block)
    bits = int.from_bytes(block[2:], "little")
    return [np.float32(d) if bits >> i & 1 else -np.float32(d) for i in range(128)]


@pytest.mark.parametrize(
    ("name", "oracle"),
    [("Q8_1", q8_1_by_the_format), ("Q8_K", q8_k_by_the_format), ("Q1_0", q1_0_by_the_format)],
)
def test_dequantize_follows_the_written_format(
    name: str, oracle: Callable[[bytes], list[float]]
) -> None:
    row = named(name)
    blocks = np.concatenate([random_blocks(row, 32), extreme_blocks(row)])
    with np.errstate(all="ignore"):
        want = np.array([oracle(block.tobytes()) for block in blocks], dtype=np.float32)
    assert_same_bits(quant_ops.dequantize(torch.from_numpy(blocks), row.id), want)


@by_name
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_are_casts_of_float32(row: QuantType, dtype: torch.dtype) -> None:
    qweight = torch.from_numpy(random_blocks(row, 16))
    want = quant_ops.dequantize(qweight, row.id).to(dtype)
    assert torch.equal(quant_ops.dequantize(qweight, row.id, dtype), want)


@by_name
def test_views_shapes_and_chunks_change_nothing(
    row: QuantType, monkeypatch: pytest.MonkeyPatch
) -> None:
    qweight = torch.from_numpy(as_rows(row, random_blocks(row, 24), 6))
    want = quant_ops.dequantize(qweight, row.id)
    padded = torch.full((12, qweight.shape[1] + 3), 255, dtype=torch.uint8)
    padded[::2, 1:-2] = qweight
    assert torch.equal(quant_ops.dequantize(padded[::2, 1:-2], row.id), want)
    assert torch.equal(
        quant_ops.dequantize(qweight.view(2, 3, -1), row.id), want.view(2, 3, want.shape[1])
    )
    assert quant_ops.dequantize(qweight[:0], row.id).shape == (0, want.shape[1])
    monkeypatch.setattr(quant_ops, "CHUNK_ELEMENTS", 5 * row.block_size)
    assert torch.equal(quant_ops.dequantize(qweight, row.id), want)


@by_name
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_products_against_the_dense_weight(
    row: QuantType, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = max(1, 64 // row.block_size)
    qweight = torch.from_numpy(as_rows(row, random_blocks(row, 7 * blocks), 7))
    weight = quant_ops.dequantize(qweight, row.id).double()
    generator = torch.Generator().manual_seed(row.id)
    x = torch.randn(2, 3, weight.shape[1], generator=generator, dtype=torch.float64)
    x = (x / weight.abs().max()).to(dtype)
    g = torch.randn(2, 3, 7, generator=generator, dtype=torch.float64)
    g = (g / weight.abs().max()).to(dtype)
    bias = torch.randn(7, generator=generator, dtype=torch.float64).to(dtype)
    monkeypatch.setattr(quant_ops, "CHUNK_ELEMENTS", 3 * weight.shape[1])
    accumulated_eps = torch.finfo(dtype if dtype == torch.float64 else torch.float32).eps
    last = torch.finfo(dtype)

    def check(got: torch.Tensor, want: torch.Tensor, terms: torch.Tensor) -> None:
        assert got.dtype == dtype
        limit = weight.shape[1] * accumulated_eps * terms + last.eps * want.abs() + last.tiny
        assert ((got.double() - want).abs() <= limit).all()

    want, terms = x.double() @ weight.T, x.double().abs() @ weight.T.abs()
    check(quant_ops.quant_matmul(x, qweight, row.id), want, terms)
    with_bias = quant_ops.quant_matmul(x, qweight, row.id, bias)
    check(with_bias, want + bias.double(), terms + bias.double().abs())
    transposed = quant_ops.quant_matmul_transposed(g, qweight, row.id)
    check(transposed, g.double() @ weight, g.double().abs() @ weight.abs())


def test_products_expand_a_bounded_part_of_the_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    row = named("Q1_0")
    qweight = torch.zeros((8192, 640 // 128 * 18), dtype=torch.uint8)
    expanded = []

    def counted(part: torch.Tensor, qtype: int, dtype: torch.dtype) -> torch.Tensor:
        out = dequantize(part, qtype, dtype)
        expanded.append(out.numel() * out.element_size())
        return out

    dequantize = quant_ops.dequantize
    monkeypatch.setattr(quant_ops, "dequantize", counted)
    quant_ops.quant_matmul(torch.ones(1, 640, dtype=torch.float64), qweight, row.id)
    assert sum(expanded) == 8192 * 640 * 8
    assert max(expanded) <= 16 << 20


@by_name
def test_embedding_gathers_rows(row: QuantType) -> None:
    qweight = torch.from_numpy(as_rows(row, random_blocks(row, 20), 10))
    ids = torch.tensor([[3, 9], [0, 3]], dtype=torch.int32)
    want = quant_ops.dequantize(qweight, row.id)[ids.long()].half()
    got = quant_ops.quant_embedding(ids, qweight, row.id, torch.float16)
    assert got.dtype == torch.float16
    assert torch.equal(got.nan_to_num(), want.nan_to_num())


def test_bad_input_is_one_sentence() -> None:
    blocks = torch.zeros((2, 17), dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"18 bytes in a Q4_0 block, got shape \[2, 17\]"):
        quant_ops.dequantize(blocks, named("Q4_0").id)
    with pytest.raises(ValueError, match="must be a GGML type of floating point values, got I32"):
        quant_ops.dequantize(blocks, named("I32").id)
    with pytest.raises(ValueError, match="got 1234"):
        quant_ops.dequantize(blocks, 1234)
    with pytest.raises(ValueError, match=r"layout must be 0 .*got 2"):
        quant_ops.quant_matmul(torch.zeros(32), blocks, named("Q4_0").id, None, 2)


@pytest.mark.gpu
@by_name
def test_dequantize_gives_the_same_bits_on_the_gpu(row: QuantType) -> None:
    qweight = torch.from_numpy(np.concatenate([random_blocks(row, 64), extreme_blocks(row)]))
    want = quant_ops.dequantize(qweight, row.id).numpy()
    assert_same_bits(quant_ops.dequantize(qweight.cuda(), row.id).cpu(), want)


def test_generating_the_code_books_again_changes_nothing() -> None:
    assert generate_codebooks.main(["--check"]) == 0


@pytest.mark.parametrize(
    ("grid", "source"),
    [
        (grids.IQ1S, gguf.quants.IQ1_S),
        (grids.IQ2XXS, gguf.quants.IQ2_XXS),
        (grids.IQ2XS, gguf.quants.IQ2_XS),
        (grids.IQ2S, gguf.quants.IQ2_S),
        (grids.IQ3XXS, gguf.quants.IQ3_XXS),
        (grids.IQ3S, gguf.quants.IQ3_S),
    ],
)
def test_grids_are_those_of_gguf(grid: torch.Tensor, source: type) -> None:
    source.init_grid()
    assert np.array_equal(grid.numpy(), source.grid.reshape(source.grid_shape))


def test_sign_patterns_have_even_parity() -> None:
    assert len(set(codebooks.KSIGNS)) == 128
    assert all(bin(sign).count("1") % 2 == 0 for sign in codebooks.KSIGNS)
    assert all(sign & 127 == index for index, sign in enumerate(codebooks.KSIGNS))


def test_the_documented_table_is_the_table() -> None:
    text = (Path(__file__).parents[2] / "docs" / "quantization.md").read_text(encoding="utf-8")
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()]
    documented = {cells[0]: cells[1:6] for cells in lines if len(cells) == 7}
    for row in ALL:
        number, block, size, bits, quantizer = documented[row.name]
        assert (int(number), int(block), int(size)) == (row.id, row.block_size, row.block_bytes)
        assert float(bits) == row.block_bytes * 8 / row.block_size
        assert (quantizer == "–") == (row.id not in quant_ops.QUANTIZABLE)
