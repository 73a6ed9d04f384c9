"""The CPU kernels of `dequantize`, for every type, on every instruction set of this processor."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from rocmforge_torch import extension
from rocmforge_torch.ops.reference import quant_ops
from rocmforge_torch.ops.reference.quants.registry import FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES, QuantType
from tests.ops.quant_blocks import Bytes, as_rows, extreme_blocks, named, random_blocks

ALL = [QUANT_TYPES[qtype] for qtype in FORMATS]
NOT_IN_GGUF = ("Q8_1", "Q8_K", "Q1_0")
by_name = pytest.mark.parametrize("row", ALL, ids=lambda row: row.name)
by_kind = pytest.mark.parametrize("make", [random_blocks, extreme_blocks], ids=["plain", "extreme"])
dequantize = torch.ops.rocmforge.dequantize


def blocks_of(row: QuantType, make: Callable[..., Bytes]) -> Bytes:
    return make(row) if make is extreme_blocks else make(row, 252)


def oracle(row: QuantType, qweight: Bytes) -> torch.Tensor:
    """float32 values by gguf-py, or by the reference for the types that gguf-py lacks."""
    if row.name in NOT_IN_GGUF:
        return quant_ops.dequantize(torch.from_numpy(qweight), row.id)
    with np.errstate(all="ignore"):
        values = gguf.quants.dequantize(qweight, gguf.GGMLQuantizationType(row.id))
    return torch.from_numpy(values.copy())


def same_bits(got: torch.Tensor, want: torch.Tensor) -> bool:
    """Equal bit patterns, any NaN equal to any other."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    bits = torch.int32 if got.dtype == torch.float32 else torch.int16
    both_nan = got.isnan() & want.isnan()
    return bool(((got.view(bits) == want.view(bits)) | both_nan).all())


def test_kernels_are_the_compiled_ones() -> None:
    for name in ("dequantize", "quant_matmul", "quant_matmul_transposed", "quant_embedding"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"rocmforge::{name}", "CPU")


@by_kind
@by_name
def test_bit_exact_in_float32(row: QuantType, make: Callable[..., Bytes]) -> None:
    qweight = as_rows(row, blocks_of(row, make), 3)
    want = oracle(row, qweight)
    assert want.isfinite().any()
    assert (want != 0).any()
    assert same_bits(dequantize(torch.from_numpy(qweight), row.id, torch.float32), want)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@by_kind
@by_name
def test_half_results_are_the_rounded_float32(
    row: QuantType, make: Callable[..., Bytes], dtype: torch.dtype
) -> None:
    qweight = as_rows(row, blocks_of(row, make), 4)
    got = dequantize(torch.from_numpy(qweight), row.id, dtype)
    assert same_bits(got, oracle(row, qweight).to(dtype))


@by_name
def test_views(row: QuantType) -> None:
    row_bytes = 2 * row.block_bytes
    store = torch.from_numpy(random_blocks(row, 60).reshape(-1)).clone()
    whole = store[: 24 * row_bytes].view(2, 3, 4, row_bytes)
    want = oracle(row, whole.numpy())
    assert same_bits(dequantize(whole, row.id, torch.float32), want)
    assert same_bits(dequantize(whole[0, 0, 0], row.id, torch.float32), want[0, 0, 0])
    assert same_bits(
        dequantize(whole[:, 1, ::2], row.id, torch.float32), want[:, 1, ::2].contiguous()
    )
    every_other = whole.view(24, row_bytes)[1::3]
    assert same_bits(
        dequantize(every_other, row.id, torch.float32), want.view(24, -1)[1::3].contiguous()
    )
    # Blocks that start at odd addresses, as in a mapped file.
    odd = torch.empty(whole.numel() + 1, dtype=torch.uint8)[1:].view_as(whole).copy_(whole)
    assert odd.data_ptr() % 2 == 1
    assert same_bits(dequantize(odd, row.id, torch.float32), want)


@pytest.mark.parametrize("shape", [(0, 34), (3, 0), (0,), (2, 0, 34)], ids=str)
def test_nothing_to_do(shape: tuple[int, ...]) -> None:
    out = dequantize(torch.empty(shape, dtype=torch.uint8), named("Q8_0").id, torch.float32)
    assert out.shape == (*shape[:-1], shape[-1] // 34 * 32)


def test_large_tensors_are_cut_between_threads() -> None:
    row = named("Q4_K")
    qweight = torch.from_numpy(random_blocks(row, 64)).repeat(64, 4).view(64, -1)
    for dtype in (torch.float32, torch.bfloat16):
        got = dequantize(qweight, row.id, dtype)
        assert same_bits(got, quant_ops.dequantize(qweight, row.id, dtype))


Q8 = torch.zeros(4, 68, dtype=torch.uint8)
BAD = {
    "number": (Q8, 99, torch.float32),
    "dtype of qweight": (Q8.float(), 8, torch.float32),
    "no dimension": (Q8[0, 0], 8, torch.float32),
    "part of a block": (Q8[:, :67], 8, torch.float32),
    "stride": (Q8.new_zeros(4, 136)[:, ::2], 8, torch.float32),
    "integers": (Q8, 8, torch.int32),
}
SENTENCES = {
    "number": "qtype 99 is not a GGML type of floating point values",
    "dtype of qweight": "qweight must be uint8, got float32",
    "no dimension": "qweight must have at least 1 dimension(s), got shape []",
    "part of a block": "qweight rows must be a multiple of 34 bytes (one Q8_0 block of 32 "
    "elements), got 67",
    "stride": "qweight rows must be contiguous: stride 1 in the last dimension, got 2",
    "integers": "dtype must be float32 or float16 or bfloat16, got int32",
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence(case: str) -> None:
    with pytest.raises(RuntimeError) as error:
        dequantize(*BAD[case])
    assert str(error.value) == f"rocmforge::dequantize: {SENTENCES[case]}"


@pytest.mark.parametrize("name", ["portable", "avx2"])
def test_the_other_instruction_sets(name: str) -> None:
    """The tests of the quantized kernels again, with kernels that the dispatcher passed over."""
    environment = {**os.environ, "ROCMFORGE_CPU_ISA": name, "OMP_NUM_THREADS": "1"}
    ask = "from rocmforge_torch import extension; print(extension.cpu_instruction_set())"
    chosen = subprocess.run(
        [sys.executable, "-c", ask], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    if chosen != name:
        pytest.skip(f"this processor does not have {name}")
    here = Path(__file__)
    files = [here, *(here.with_name(f"test_quant_{op}_cpu.py") for op in ("matmul", "embedding"))]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += ["-k", "not other_instruction_sets", *map(str, files)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:]


def test_the_chosen_instruction_set_has_a_name() -> None:
    assert extension.cpu_instruction_set() in ("portable", "avx2", "avx512")
