"""The formats of a key-value cache on AMD code: every way of reading them, and the writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_tensors import DTYPE_CODES, bits, give
from torch import Tensor

from rocmforge_torch.ops import reference
from rocmforge_torch.ops.reference.cache_formats import CACHE_FORMATS
from rocmforge_torch.quant_types import QUANT_TYPES_BY_NAME
from tools.amd.emulator import Emulator, Input, Output, poisoned
from tools.amd.emulator.messages import Struct
from tools.amd.toolchain import CSRC

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
  load_floats<Format>(row, first, eight[0]);
  load_floats<Format>(row, first + 8, eight[1]);
  load_floats<Format>(row, first, sixteen);
  load_pairs<Format, __half>(row, first, half);
  load_pairs<Format, gpu_bfloat16>(row, first, bfloat);
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


# rocmforge::CacheType
CODES = {name: code for code, name in enumerate(("f32", "f16", "bf16", "fp8", "fp8_e5m2"))}
CODES |= {"q8_0": 5, "q4_0": 6}
F32, F16, BF16 = torch.float32, torch.float16, torch.bfloat16
SLOTS = torch.tensor([5, -1, 0, 12, 11, -(2**40), 2**40, 7])
PLACES, BLOCK_SIZE, HEADS = 12, 4, 3


def memory(cache: Tensor) -> Tensor:
    """The bytes of a whole tensor that a cache is a view of."""
    return cache.view(torch.uint8) if cache.is_contiguous() else cache._base.view(torch.uint8)


def target(name: str, cache: Tensor, fresh: Tensor) -> Struct:
    """CacheTarget; fresh [tokens, heads, head_dim], its storage's first element included."""
    assert cache.storage_offset() == 0
    whole = fresh if fresh.is_contiguous() else fresh._base
    strides = [*cache.stride(), len(fresh), 0, *fresh.stride()[:2]]
    layout = [("c_int64", value) for value in (fresh.shape[2], *strides)]
    out = Output(bits(memory(cache)).copy())
    return Struct(
        [
            ("c_int", CODES[name]),
            ("c_void_p", out),
            ("c_void_p", give(whole)),
            ("struct", Struct(layout)),
        ]
    )


def new_tokens(width: int, dtype: torch.dtype) -> Tensor:
    """Values of every size, and those that need care: ties, overflow, subnormals, signs."""
    x = torch.randn(len(SLOTS), HEADS, width) * torch.tensor([1.0, 100.0, 1e-3])[:, None]
    care = [448.0, 464.0, 480.0, 6e4, 2**-9, 2**-10, 3 * 2**-10, -0.0, -(2**-7), 1e-6, 17.0, 18.0]
    x[0, 0, : min(width, 12)] = torch.tensor(care)[:width]
    x[2, 1] = 0  # a block without a scale
    x[4, 1] = -x[4, 1].abs().max()  # ties of the largest
    x[4, 1, ::2] *= -1
    return x.to(dtype)


def write(
    emulator: Emulator, arch: str, names: tuple[str, str], dtype: torch.dtype, k: Tensor, v: Tensor
) -> None:
    """Both caches are what the reference makes of them, and nothing else was written."""
    inside = SLOTS.where(SLOTS < PLACES, -1)  # places outside are passed over
    fresh = (k, v)
    caches = []
    for name, x in zip(names, fresh, strict=True):
        stored = CACHE_FORMATS[name].encode(torch.randn(3, BLOCK_SIZE, HEADS, x.shape[2]))
        caches.append(stored.view(torch.uint8).clone().view(stored.dtype))
    targets = [target(*both) for both in zip(names, caches, fresh, strict=True)]
    run = emulator.launch(
        CSRC / "hip" / "cache.hip",
        arch,
        "kv_cache_write",
        [*targets, DTYPE_CODES[dtype], give(SLOTS), len(SLOTS), PLACES, BLOCK_SIZE, HEADS, None],
    )
    reference.kv_cache_write_(*caches, k, v, inside)
    for out, cache, name in zip(run.outputs, caches, names, strict=True):
        got = torch.from_numpy(np.array(out))
        assert torch.equal(got, memory(cache)), f"{name} {int((got != memory(cache)).sum())} bytes"
    assert len(run.launches) == (1 if names[0] == names[1] else 2)


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


PAIRS = [(name, name, dtype) for name in CACHE_FORMATS for dtype in (F32, F16, BF16)]
PAIRS += [("f16", "q8_0", F16), ("q4_0", "fp8", F32)]
WRITES = [("gfx1100", *pair) for pair in PAIRS]
WRITES += [(arch, n, n, F16) for arch in ARCHS[1:] for n in ("f16", "fp8", "q8_0", "q4_0")]


@pytest.mark.parametrize(("arch", "k_name", "v_name", "dtype"), WRITES, ids=str)
def test_writes_are_the_references_bytes(
    emulator: Emulator, arch: str, k_name: str, v_name: str, dtype: torch.dtype
) -> None:
    k, v = new_tokens(64, dtype), new_tokens(96, dtype)
    write(emulator, arch, (k_name, v_name), dtype, k, v)


@pytest.mark.parametrize("name", ["f16", "fp8", "fp8_e5m2"])
def test_writes_of_odd_heads(emulator: Emulator, name: str) -> None:
    write(emulator, "gfx1100", (name, name), F16, new_tokens(7, F16), new_tokens(12, F16))


@pytest.mark.parametrize("name", ["f16", "fp8", "q8_0", "q4_0"])
def test_writes_of_columns_of_a_wider_tensor(emulator: Emulator, name: str) -> None:
    wide = [new_tokens(width + 3, F32)[..., :width] for width in (64, 32)]
    write(emulator, "gfx1100", (name, name), F32, *wide)


# A case per quantizer, and one on the other wave size.
QUANTIZED = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q8_1")


@pytest.mark.parametrize(
    ("arch", "name", "dtype"),
    [("gfx1100", name, dtype) for name in QUANTIZED for dtype in (F32, BF16)]
    + [(arch, name, F16) for arch in ARCHS[1:] for name in ("Q5_1", "Q8_1")],
    ids=str,
)
def test_quantize(emulator: Emulator, arch: str, name: str, dtype: torch.dtype) -> None:
    row = QUANT_TYPES_BY_NAME[name]
    wide = new_tokens(99, dtype).flatten(0, 1)
    wide[5, 3] = wide[5, 40] = -0.0
    for x in (wide[:, :96], wide[:, :96].contiguous()):
        blocks = reference.quantize(x, row.id)
        run = emulator.launch(
            CSRC / "hip" / "quantize.hip",
            arch,
            "quantize",
            [
                row.id,
                DTYPE_CODES[dtype],
                give(x if x.is_contiguous() else wide),
                Struct([("c_int64", len(x)), ("c_int64", 0), ("c_int64", x.stride(0))]),
                len(x),
                96,
                Output(poisoned(tuple(blocks.shape), np.uint8)),
                None,
            ],
        )
        assert torch.equal(torch.from_numpy(np.array(run.outputs[0])), blocks)
