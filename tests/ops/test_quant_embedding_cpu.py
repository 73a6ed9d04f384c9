"""The CPU kernels of `quant_embedding`."""

from __future__ import annotations

import pytest
import torch

from rocmforge_torch.ops.reference import quant_ops
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.quant_blocks import named, random_blocks

ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
quant_embedding = torch.ops.rocmforge.quant_embedding


def table(row: QuantType, rows: int, blocks: int) -> torch.Tensor:
    return torch.from_numpy(random_blocks(row, rows * blocks)).view(rows, -1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
def test_rows_of_the_table(row: QuantType, dtype: torch.dtype) -> None:
    qweight = table(row, 19, 3)
    ids = torch.randint(19, (2, 5))
    got = quant_embedding(ids, qweight, row.id, dtype)
    assert got.dtype == dtype
    torch.testing.assert_close(
        got, quant_ops.dequantize(qweight, row.id, dtype)[ids], rtol=0, atol=0, equal_nan=True
    )


@pytest.mark.parametrize("shape", [(), (1,), (0,), (3, 0, 2), (2, 1, 4)], ids=str)
@pytest.mark.parametrize("index", [torch.int32, torch.int64], ids=str)
def test_shapes_and_types_of_ids(shape: tuple[int, ...], index: torch.dtype) -> None:
    row = named("Q5_0")
    qweight = table(row, 8, 2)
    ids = torch.randint(8, shape, dtype=index)
    got = quant_embedding(ids, qweight, row.id, torch.float32)
    assert torch.equal(got, quant_ops.dequantize(qweight, row.id)[ids.long()])
    assert got.shape == (*shape, 64)


def test_views() -> None:
    row = named("Q6_K")
    qweight = table(row, 12, 4)[1::3, : 2 * row.block_bytes]
    ids = torch.randint(4, (6, 4)).T[::2]
    got = quant_embedding(ids, qweight, row.id, torch.float32)
    assert torch.equal(got, quant_ops.dequantize(qweight, row.id)[ids])


def test_many_ids() -> None:
    row = named("Q8_0")
    qweight = table(row, 300, 20)
    ids = torch.randint(300, (700,))
    got = quant_embedding(ids, qweight, row.id, torch.bfloat16)
    assert torch.equal(got, quant_ops.dequantize(qweight, row.id, torch.bfloat16)[ids])


Q8 = torch.zeros(4, 34, dtype=torch.uint8)
IDS = torch.zeros(3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ((torch.tensor([0, 4]), Q8, 8, torch.float32), "ids must be in [0, 4), got 4"),
        ((torch.tensor([-1]), Q8, 8, torch.float32), "ids must be in [0, 4), got -1"),
        ((IDS, Q8[:0], 8, torch.float32), "ids must be in [0, 0), got 0"),
        ((IDS.float(), Q8, 8, torch.float32), "ids must be int64 or int32, got float32"),
        ((IDS.bool(), Q8, 8, torch.float32), "ids must be int64 or int32, got bool"),
        (
            (IDS, Q8[0], 8, torch.float32),
            "qweight must have 2 dimensions [rows, row_bytes], got [34]",
        ),
        (
            (IDS, Q8, 8, torch.float64),
            "dtype must be float32 or float16 or bfloat16, got float64",
        ),
        ((IDS, Q8, -1, torch.float32), "qtype -1 is not a GGML type of floating point values"),
    ],
)
def test_bad_input_gets_one_sentence(args: tuple[object, ...], sentence: str) -> None:
    with pytest.raises(RuntimeError) as error:
        quant_embedding(*args)
    assert str(error.value) == f"rocmforge::quant_embedding: {sentence}"
