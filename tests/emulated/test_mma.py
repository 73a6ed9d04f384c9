"""The matrix step of csrc/hip/mma.h, compiled for AMD and executed, against float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_tensors import ARCHS, give

from tools.amd.emulator import Emulator, Output
from tools.amd.toolchain import Toolchain

pytestmark = pytest.mark.emulated
INSTRUCTION = {
    ("gfx1100", torch.float16): "v_wmma_f32_16x16x16_f16",
    ("gfx1100", torch.bfloat16): "v_wmma_f32_16x16x16_bf16",
    ("gfx1201", torch.float16): "v_wmma_f32_16x16x16_f16",
    ("gfx1201", torch.bfloat16): "v_wmma_f32_16x16x16_bf16",
    ("gfx942", torch.float16): "v_mfma_f32_16x16x16_f16",
    ("gfx942", torch.bfloat16): "v_mfma_f32_16x16x16_bf16",
}

# A and B are [16, depth], depth a multiple of 64; out [16, 16] = start + A . B'.
KERNEL = """
#include "hip/mma.h"
using namespace rocmforge::gpu;

extern "C" __global__ void product(const ELEMENT* a, const ELEMENT* b, float* out, int depth) {
  const int lane = threadIdx.x;
  Tile tile;
  for (int e = 0; e < Tile::kElements; ++e) {
    tile.values[e] = out[16 * acc_row(lane, e) + acc_col(lane, e)];
  }
  for (int k = 16 * slot(lane); k < depth; k += kMmaDepth) {
    Span<ELEMENT> x[kLaneRowsA], y[kLaneRowsB];
    for (int i = 0; i < kLaneRowsA; ++i) x[i] = load_span(a + depth * row_of_a(lane, i) + k);
    for (int j = 0; j < kLaneRowsB; ++j) y[j] = load_span(b + depth * row_of_b(lane, j) + k);
    mma(tile, x, y);
  }
  for (int e = 0; e < Tile::kElements; ++e) {
    out[16 * acc_row(lane, e) + acc_col(lane, e)] = tile.values[e];
  }
}
"""


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_product_of_random_rows(
    emulator: Emulator, toolchain: Toolchain, tmp_path: Path, arch: str, dtype: torch.dtype
) -> None:
    source = tmp_path / "product.hip"
    element = "__half" if dtype == torch.float16 else "gpu_bfloat16"
    source.write_text(KERNEL.replace("ELEMENT", element))
    code = toolchain.compile(source, arch).path

    depth = 192
    a, b = (torch.randn(16, depth).to(dtype) for _ in range(2))
    start = np.random.default_rng(0).standard_normal((16, 16)).astype(np.float32)
    wave = 64 if arch == "gfx942" else 32
    values = [give(a), give(b), Output(start.copy()), np.int32(depth)]
    run = emulator.emulate(code, "product", (1, 1, 1), (wave, 1, 1), values)

    want = torch.from_numpy(start).double() + a.double() @ b.double().T
    size = a.double().abs() @ b.double().abs().T
    assert ((torch.from_numpy(run.outputs[0]).double() - want).abs() <= 1e-6 * size).all()
    name = INSTRUCTION[arch, dtype]
    assert sum(n for mnemonic, n in run.counts.items() if mnemonic.startswith(name)) > 0
