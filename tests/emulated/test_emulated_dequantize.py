"""The compiled dequantize and row gather against the reference, bit for bit."""

from __future__ import annotations

import re

import pytest
import torch
from emulated_tensors import ARCHS, DTYPE_CODES, from_bits, give, take

from rocmforge_torch.ops import reference
from rocmforge_torch.quant_types import quant_type, row_bytes
from tools.amd.emulator import Emulator, Struct
from tools.amd.toolchain import CSRC

pytestmark = pytest.mark.emulated
SOURCE = CSRC / "hip" / "dequantize.hip"
TYPES = re.findall(r"\brow\((\w+)\)", (CSRC / "hip/quants/table.h").read_text(encoding="utf-8"))


def random_blocks(name: str, rows: int, cols: int) -> torch.Tensor:
    """Any bytes are blocks; scales may be infinite or NaN, which the reference has to say, too."""
    return torch.randint(0, 256, (rows, row_bytes(name, cols)), dtype=torch.uint8)


def dequantize(
    emulator: Emulator,
    arch: str,
    name: str,
    qweight: torch.Tensor,
    cols: int,
    dtype: torch.dtype,
    ids: torch.Tensor | None = None,
) -> torch.Tensor:
    rows, stride = qweight.shape
    blocks = give(qweight, offset=2)  # a file promises no more than 2-byte alignment
    assert blocks is not None
    matrix = Struct(
        [
            ("c_int32", quant_type(name).id),
            ("c_int32", 0),
            ("c_void_p", blocks),
            ("c_int64", rows),
            ("c_int64", cols),
            ("c_int64", stride),
        ]
    )
    count = rows if ids is None else len(ids)
    out = take((count, cols), dtype)
    values = [matrix, give(ids), count, DTYPE_CODES[dtype], out, None]
    run = emulator.launch(SOURCE, arch, "dequantize", values)
    return from_bits(run.outputs[0], dtype)


@pytest.mark.parametrize("name", TYPES)
def test_dequantize_is_bit_exact(emulator: Emulator, name: str) -> None:
    cols = quant_type(name).block_size * 3
    qweight = random_blocks(name, 3, cols)
    out = dequantize(emulator, "gfx1100", name, qweight, cols, torch.float32)
    expected = reference.dequantize(qweight, quant_type(name).id, torch.float32)
    torch.testing.assert_close(out, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", DTYPE_CODES, ids=str)
def test_rows_are_gathered_by_id(emulator: Emulator, arch: str, dtype: torch.dtype) -> None:
    qweight = random_blocks("Q4_K", 5, 512)
    ids = torch.tensor([4, 0, -1, 2, 5, 4])
    out = dequantize(emulator, arch, "Q4_K", qweight, 512, dtype, ids)
    known = torch.tensor([0, 1, 3, 5])
    expected = reference.dequantize(qweight[ids[known]], quant_type("Q4_K").id, dtype)
    torch.testing.assert_close(out[known], expected, rtol=0, atol=0, equal_nan=True)
    assert out[[2, 4]].isnan().all()
