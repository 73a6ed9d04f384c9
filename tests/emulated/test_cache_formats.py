"""The formats of a key-value cache on AMD code: every way of reading them, and the writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from rocmforge_torch.ops import reference
from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME
from tools.amd.emulator import Emulator, Input, Output, poisoned

pytestmark = pytest.mark.emulated
Compile = Callable[[str, str], Path]
ARCHS = ("gfx1100", "gfx1201", "gfx942")
PLAIN = {
    "Float32Cache": torch.float32,
    "Float16Cache": torch.float16,
    "BFloat16Cache": torch.bfloat16,
    "E4M3Cache": torch.float8_e4m3fn,
    "E5M2Cache": torch.float8_e5m2,
}
BLOCKS = {"Q8_0Cache": "Q8_0", "Q4_0Cache": "Q4_0"}
FORMATS = (*PLAIN, *BLOCKS)
WIDTH, ROWS = 96, 3

READ = """
#include "hip/cache_formats.h"
using namespace rocmforge::gpu;

// A thread reads 16 values in every way that there is.
template <class Format>
__device__ void read(const uint8_t* rows, float* eights, float* sixteens, float* ones,
                     uint32_t* halves, uint32_t* bfloats, int width) {
  const int i = threadIdx.x, groups = width / 16;
  if (i >= ROWS * groups) return;
  const uint8_t* row = rows + i / groups * (width / Format::kBlock * Format::kBytes);
  const int first = i % groups * 16;
  float eight[2][8], sixteen[16];
  uint32_t half[8], bfloat[8];
  Format::template load<8>(row, first, eight[0]);
  Format::template load<8>(row, first + 8, eight[1]);
  Format::template load<16>(row, first, sixteen);
  Format::template load_pairs<__half, 16>(row, first, half);
  Format::template load_pairs<gpu_bfloat16, 16>(row, first, bfloat);
  for (int j = 0; j < 16; ++j) {
    eights[16 * i + j] = eight[j / 8][j % 8];
    sixteens[16 * i + j] = sixteen[j];
    ones[16 * i + j] = Format::value(row, first + j);
  }
  for (int j = 0; j < 8; ++j) halves[8 * i + j] = half[j], bfloats[8 * i + j] = bfloat[j];
}

extern "C" __global__ void read_rows(const uint8_t* rows, float* eights, float* sixteens,
                                     float* ones, uint32_t* halves, uint32_t* bfloats, int width) {
  read<FORMAT>(rows, eights, sixteens, ones, halves, bfloats, width);
}
"""


def row_bytes(name: str) -> Tensor:
    """ROWS rows of WIDTH values, of every kind that the format has."""
    generator = torch.Generator().manual_seed(1)
    if name in BLOCKS:
        x = torch.randn(ROWS, WIDTH, generator=generator) * 8
        x[0] *= 1e-7  # a subnormal scale
        return reference.quantize(x, QUANT_TYPES_BY_NAME[BLOCKS[name]].id)
    dtype = PLAIN[name]
    count = ROWS * WIDTH
    if dtype.itemsize == 1:
        return torch.arange(count).to(torch.uint8).view(ROWS, WIDTH)
    x = torch.randn(count, generator=generator) * 10.0 ** torch.randint(
        -8, 5, (count,), generator=generator
    )
    x[:4] = torch.tensor([float("nan"), float("inf"), -0.0, 6e-8])
    return x.to(dtype).view(torch.uint8).view(ROWS, -1)


def values(name: str, rows: Tensor) -> Tensor:
    if name in BLOCKS:
        return reference.dequantize(rows, QUANT_TYPES_BY_NAME[BLOCKS[name]].id)
    return rows.view(PLAIN[name]).float()


@pytest.mark.parametrize(
    ("arch", "name"),
    [("gfx1100", name) for name in FORMATS]
    + [(arch, name) for arch in ARCHS[1:] for name in ("E4M3Cache", "Q8_0Cache", "Q4_0Cache")],
)
def test_every_way_of_reading_gives_the_values(
    emulator: Emulator, compile_kernel: Compile, arch: str, name: str
) -> None:
    code = compile_kernel(READ.replace("FORMAT", name).replace("ROWS", str(ROWS)), arch)
    rows = row_bytes(name)
    wanted = values(name, rows)
    floats = [Output(poisoned(wanted.shape, np.float32)) for _ in range(3)]
    pairs = [Output(poisoned(wanted.shape, np.uint16)) for _ in range(2)]
    # Rows of blocks need an even address only.
    source = Input(rows.numpy(), 2 if name in BLOCKS else 0)
    run = emulator.emulate(
        code, "read_rows", (1, 1, 1), (64, 1, 1), [source, *floats, *pairs, np.int32(WIDTH)]
    )
    for out in run.outputs[:3]:
        torch.testing.assert_close(
            torch.from_numpy(np.array(out)), wanted, rtol=0, atol=0, equal_nan=True
        )
    for out, dtype in zip(run.outputs[3:], (torch.float16, torch.bfloat16), strict=True):
        got = torch.from_numpy(np.array(out)).view(torch.int16).view(dtype)
        torch.testing.assert_close(got, wanted.to(dtype), rtol=0, atol=0, equal_nan=True)
