"""The emulator itself notices what a kernel must not do, and counts what it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from emulated_tensors import ARCHS

from tools.amd.emulator import EmulationError, Emulator, Input, Output, poisoned

pytestmark = pytest.mark.emulated
Compile = Callable[[str, str], Path]
BLOCK = (64, 1, 1)

COPY = """
extern "C" __global__ void copy(const float* x, float* out, int shift) {
  out[threadIdx.x] = x[static_cast<int>(threadIdx.x) + shift];
}
"""


def copy(emulator: Emulator, code: Path, shift: int, writable: bool = True) -> np.ndarray:
    x = np.arange(64, dtype=np.float32)
    out = poisoned((64,), np.float32)
    target = Output(out) if writable else Input(out)
    values = [Input(x), target, np.int32(shift)]
    return emulator.emulate(code, "copy", (1, 1, 1), BLOCK, values).outputs[0]


@pytest.mark.parametrize("arch", ARCHS)
def test_reads_past_either_end_are_caught(
    emulator: Emulator, compile_kernel: Compile, arch: str
) -> None:
    code = compile_kernel(COPY, arch)
    np.testing.assert_array_equal(copy(emulator, code, 0), np.arange(64))
    with pytest.raises(EmulationError, match=r"4 bytes past the end of buffer 0 \(256 bytes\)"):
        copy(emulator, code, 1)
    with pytest.raises(EmulationError, match="8 bytes before the start of buffer 0"):
        copy(emulator, code, -2)


def test_writes_to_inputs_and_past_the_end_are_caught(
    emulator: Emulator, compile_kernel: Compile
) -> None:
    code = compile_kernel(COPY, "gfx1100")
    with pytest.raises(EmulationError, match=r"writes to buffer 1 .*read-only"):
        copy(emulator, code, 0, writable=False)
    values = [Input(np.zeros(64, np.float32)), Output(np.zeros(63, np.float32)), np.int32(0)]
    with pytest.raises(EmulationError, match=r"global_store_b32.* writes 4 bytes"):
        emulator.emulate(code, "copy", (1, 1, 1), BLOCK, values)


@pytest.mark.parametrize("arch", ARCHS)
def test_lanes_that_are_masked_off_may_hold_wild_addresses(
    emulator: Emulator, compile_kernel: Compile, arch: str
) -> None:
    code = compile_kernel(
        """
        extern "C" __global__ void some(const float* x, float* out, int n) {
          if (threadIdx.x * 1000003 < n) out[threadIdx.x] = x[threadIdx.x * 1000003];
        }
        """,
        arch,
    )
    values = [Input(np.array([7.0], np.float32)), Output(np.zeros(1, np.float32)), np.int32(1)]
    run = emulator.emulate(code, "some", (1, 1, 1), BLOCK, values)
    np.testing.assert_array_equal(run.outputs[0], [7.0])


RACE = """
extern "C" __global__ void turn(const float* x, float* out) {
  __shared__ float shared[128];
  shared[threadIdx.x] = x[threadIdx.x];
  BARRIER
  out[threadIdx.x] = shared[127 - threadIdx.x];
}
"""


@pytest.mark.parametrize("arch", ARCHS)
def test_a_missing_barrier_is_a_race(
    emulator: Emulator, compile_kernel: Compile, arch: str
) -> None:
    x = np.arange(128, dtype=np.float32)
    values = [Input(x), Output(poisoned((128,), np.float32))]
    right = compile_kernel(RACE.replace("BARRIER", "__syncthreads();"), arch)
    run = emulator.emulate(right, "turn", (2, 1, 1), (128, 1, 1), values)
    np.testing.assert_array_equal(run.outputs[0], x[::-1])
    wrong = compile_kernel(RACE.replace("BARRIER", ""), arch)
    with pytest.raises(EmulationError, match="race on LDS byte"):
        emulator.emulate(wrong, "turn", (2, 1, 1), (128, 1, 1), values)


@pytest.mark.parametrize(("stride", "conflicts"), [(1, 0), (2, 2), (32, 62), (33, 0)])
def test_bank_conflicts_are_counted(
    emulator: Emulator, compile_kernel: Compile, stride: int, conflicts: int
) -> None:
    """Of one write and one read by a wave of 32; banks.py has its own tests."""
    code = compile_kernel(
        """
        extern "C" __global__ void apart(float* out, int stride) {
          __shared__ float shared[32 * 33];
          shared[threadIdx.x * stride] = threadIdx.x;
          __syncthreads();
          out[threadIdx.x] = shared[(31 - threadIdx.x) * stride];
        }
        """,
        "gfx1100",
    )
    values = [Output(poisoned((32,), np.float32)), np.int32(stride)]
    run = emulator.emulate(code, "apart", (1, 1, 1), (32, 1, 1), values)
    np.testing.assert_array_equal(run.outputs[0], np.arange(32)[::-1])
    assert (run.lds_accesses, run.lds_conflicts) == (2, conflicts)


@pytest.mark.parametrize("arch", ARCHS)
def test_hidden_arguments_and_block_numbers(
    emulator: Emulator, compile_kernel: Compile, arch: str
) -> None:
    code = compile_kernel(
        """
        extern "C" __global__ void where(int* out) {
          const int block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
          const int thread = threadIdx.x + blockDim.x * threadIdx.y;
          const int threads = blockDim.x * blockDim.y;
          out[block * threads + thread] = block * 1000 + thread;
        }
        """,
        arch,
    )
    blocks, threads = 2 * 3 * 2, 8 * 4
    out = Output(poisoned((blocks, threads), np.int32))
    run = emulator.emulate(code, "where", (2, 3, 2), (8, 4, 1), [out])
    expected = np.arange(blocks)[:, None] * 1000 + np.arange(threads)
    np.testing.assert_array_equal(run.outputs[0], expected)


@pytest.mark.parametrize("arch", ARCHS)
def test_unaligned_and_wide_loads(emulator: Emulator, compile_kernel: Compile, arch: str) -> None:
    code = compile_kernel(
        """
        struct __attribute__((packed)) Word { unsigned value; };
        extern "C" __global__ void words(const char* x, unsigned* out, int stride) {
          out[threadIdx.x] = reinterpret_cast<const Word*>(x + threadIdx.x * stride)->value;
        }
        extern "C" __global__ void wide(const uint4* x, unsigned* out) {
          const uint4 value = x[threadIdx.x];
          out[threadIdx.x] = value.x ^ value.y ^ value.z ^ value.w;
        }
        """,
        arch,
    )
    data = np.random.default_rng(1).integers(0, 256, 64 * 18, dtype=np.uint8)
    out = Output(poisoned((64,), np.uint32))
    run = emulator.emulate(code, "words", (1, 1, 1), BLOCK, [Input(data, 2), out, np.int32(18)])
    rows = data.reshape(64, 18)[:, :4]
    np.testing.assert_array_equal(run.outputs[0], np.ascontiguousarray(rows).view("<u4")[:, 0])
    wide = np.random.default_rng(2).integers(0, 2**32, (64, 4), dtype=np.uint32)
    run = emulator.emulate(code, "wide", (1, 1, 1), BLOCK, [Input(wide), out])
    np.testing.assert_array_equal(run.outputs[0], np.bitwise_xor.reduce(wide, axis=1))
    assert run.lines[0] == 64 * 16 // 128
    waves = 64 // (64 if arch == "gfx942" else 32)
    assert run.counts["global_load_dwordx4" if arch == "gfx942" else "global_load_b128"] == waves


@pytest.mark.parametrize("arch", ARCHS)
def test_float32_denormals_are_kept(emulator: Emulator, compile_kernel: Compile, arch: str) -> None:
    code = compile_kernel(
        """
        extern "C" __global__ void half_of(const float* x, float* out) {
          out[threadIdx.x] = x[threadIdx.x] * 0.5f;
        }
        """,
        arch,
    )
    x = np.full(64, 1e-40, np.float32)
    values = [Input(x), Output(poisoned((64,), np.float32))]
    run = emulator.emulate(code, "half_of", (1, 1, 1), BLOCK, values)
    np.testing.assert_array_equal(run.outputs[0], x * np.float32(0.5))
    assert run.outputs[0][0] > 0


def test_wrong_launches_are_refused_in_words(emulator: Emulator, compile_kernel: Compile) -> None:
    code = compile_kernel(COPY, "gfx1100")
    x, out = Input(np.zeros(64, np.float32)), Output(np.zeros(64, np.float32))
    with pytest.raises(EmulationError, match="takes 3 arguments, got 2"):
        emulator.emulate(code, "copy", (1, 1, 1), BLOCK, [x, out])
    with pytest.raises(EmulationError, match="argument at byte 16 has 4 bytes, got 8"):
        emulator.emulate(code, "copy", (1, 1, 1), BLOCK, [x, out, np.int64(0)])
    with pytest.raises(EmulationError, match="a block of 2048 threads"):
        emulator.emulate(code, "copy", (1, 1, 1), (2048, 1, 1), [x, out, np.int32(0)])
    with pytest.raises(EmulationError, match="0 kernels called nothing; the file has copy"):
        emulator.emulate(code, "nothing", (1, 1, 1), BLOCK, [])


def test_an_endless_kernel_is_stopped_and_the_next_one_runs(
    emulator: Emulator, compile_kernel: Compile
) -> None:
    endless = compile_kernel(
        """
        extern "C" __global__ void endless(volatile int* x) {
          while (x[0] == 0) {
          }
        }
        """,
        "gfx1100",
    )
    values = [Output(np.zeros(1, np.int32))]
    with pytest.raises(EmulationError, match="took too long"):
        emulator.emulate(endless, "endless", (1, 1, 1), (32, 1, 1), values, timeout=0.01)
    code = compile_kernel(COPY, "gfx1100")
    np.testing.assert_array_equal(copy(emulator, code, 0), np.arange(64))


@pytest.mark.parametrize("arch", ARCHS)
def test_integer_dot_products(emulator: Emulator, compile_kernel: Compile, arch: str) -> None:
    code = compile_kernel(
        """
        extern "C" __global__ void dots(const int* a, const int* b, int* out) {
          const int i = threadIdx.x;
        #if defined(__GFX9__)
          out[i] = __builtin_amdgcn_sdot4(a[i], b[i], -5, false);
        #else
          out[i] = __builtin_amdgcn_sudot4(true, a[i], true, b[i], -5, false);
        #endif
        }
        """,
        arch,
    )
    rng = np.random.default_rng(4)
    a, b = (rng.integers(-128, 128, (64, 4), dtype=np.int8) for _ in range(2))
    values = [Input(a), Input(b), Output(poisoned((64,), np.int32))]
    run = emulator.emulate(code, "dots", (1, 1, 1), BLOCK, values)
    expected = (a.astype(np.int32) * b.astype(np.int32)).sum(axis=1) - 5
    np.testing.assert_array_equal(run.outputs[0], expected)


@pytest.mark.parametrize("arch", ARCHS)
def test_half_precision_in_high_registers(
    emulator: Emulator, compile_kernel: Compile, arch: str
) -> None:
    """On CDNA v200 is a register of its own; on RDNA 16-bit operands reach only v127."""
    register = "v200" if arch == "gfx942" else "v100"
    code = compile_kernel(
        """
        extern "C" __global__ void convert(const unsigned* x, float* out) {
          float value;
          asm volatile("v_mov_b32 REGISTER, %1\\n v_cvt_f32_f16_e32 %0, REGISTER"
                       : "=v"(value) : "v"(x[threadIdx.x]) : "REGISTER");
          out[threadIdx.x] = value;
        }
        """.replace("REGISTER", register),
        arch,
    )
    x = np.arange(64, dtype=np.float16)
    values = [Input(x.view(np.uint16).astype(np.uint32)), Output(poisoned((64,), np.float32))]
    run = emulator.emulate(code, "convert", (1, 1, 1), BLOCK, values)
    np.testing.assert_array_equal(run.outputs[0], x)
