"""The emulator's matrix units, against plain products: operand layouts, types, register files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from emulated_tensors import ARCHS

from tools.amd.emulator import Emulator, Input, Output, poisoned

pytestmark = pytest.mark.emulated
Compile = Callable[[str, str], Path]

# OUT = C + A . B^T + B . A^T, all of 16 rows; every lane brings fragments in its own unit's layout,
# taken from AMD's ISA documents. K is 16, or 32 for bytes on CDNA3.
PRODUCTS = """
#if defined(__GFX12__)
  #define ROW(i, group) (group * 8 + i)
  #define FIRST(group) (group * 8)
  #define F16(a, b, c) __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(a, b, c)
  #define BF16(a, b, c) __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(a, b, c)
  #define I8(a, b, c) __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32_gfx12(true, a, true, b, c, false)
  constexpr int rows = 8, halves = 8, bytes = 8, byte_depth = 16;
#elif defined(__GFX11__)
  #define ROW(i, group) (2 * i + group)
  #define FIRST(group) 0
  #define F16(a, b, c) __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a, b, c)
  #define BF16(a, b, c) __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(a, b, c)
  #define I8(a, b, c) __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, a, true, b, c, false)
  constexpr int rows = 8, halves = 16, bytes = 16, byte_depth = 16;
#elif defined(__GFX9__)
  #define ROW(i, group) (4 * group + i)
  #define FIRST(group) (group * own)
  #define F16(a, b, c) __builtin_amdgcn_mfma_f32_16x16x16f16(a, b, c, 0, 0, 0)
  #define BF16(a, b, c) __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(a, b, c, 0, 0, 0)
  #define I8(a, b, c) __builtin_amdgcn_mfma_i32_16x16x32_i8(a, b, c, 0, 0, 0)
  constexpr int rows = 4, halves = 4, bytes = 8, byte_depth = 32;
#else
  #define NO_DEVICE
#endif
#if !defined(NO_DEVICE) && defined(__HIP_DEVICE_COMPILE__)
typedef _Float16 f16 __attribute__((ext_vector_type(halves)));
typedef short bf16 __attribute__((ext_vector_type(halves)));
typedef int words __attribute__((ext_vector_type(bytes / 4)));
typedef float floats __attribute__((ext_vector_type(rows)));
typedef int ints __attribute__((ext_vector_type(rows)));
#if defined(__GFX9__)
typedef long i8;
#else
typedef words i8;
#endif

template <typename Vector, typename T>
__device__ Vector fragment(const T* matrix, int depth) {
  constexpr int own = sizeof(Vector) / sizeof(T);
  T values[own];
  for (int i = 0; i < own; ++i) {
    values[i] = matrix[threadIdx.x % 16 * depth + FIRST(threadIdx.x / 16) + i];
  }
  return __builtin_bit_cast(Vector, values);
}

#define KERNEL(NAME, UNIT, BOUNDS, T, Vector, Sum, Number, depth)                         \\
  extern "C" __global__ void BOUNDS NAME(const T* a, const T* b, const Number* c, Number* out) { \\
    const int column = threadIdx.x % 16, group = threadIdx.x / 16;                        \\
    Sum sum;                                                                              \\
    for (int i = 0; i < rows; ++i) sum[i] = c[ROW(i, group) * 16 + column];               \\
    const Vector x = fragment<Vector>(a, depth), y = fragment<Vector>(b, depth);          \\
    sum = UNIT(x, y, sum);                                                                \\
    sum = UNIT(y, x, sum);                                                                \\
    for (int i = 0; i < rows; ++i) out[ROW(i, group) * 16 + column] = sum[i];             \\
  }
KERNEL(f16_product, F16, , _Float16, f16, floats, float, 16)
KERNEL(bf16_product, BF16, , short, bf16, floats, float, 16)
KERNEL(i8_product, I8, , signed char, i8, ints, int, byte_depth)
// A block this small may have 512 registers on CDNA: the sums go to its second register file.
KERNEL(f16_product_in_accumulators, F16, __launch_bounds__(256), _Float16, f16, floats, float, 16)
#endif
"""
PLAIN = ("f16_product", "bf16_product", "i8_product")


def halves(dtype: torch.dtype) -> tuple[np.ndarray, np.ndarray]:
    """16 x 16 random numbers as bits and as float64, some of them denormal in float16."""
    values = torch.randn(16, 16)
    values[3] *= 1e-6
    rounded = values.to(dtype)
    return rounded.view(torch.int16).numpy(), rounded.double().numpy()


def run_product(
    emulator: Emulator, code: Path, name: str, arch: str
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """What the kernel gave, what it should, and the matrix instructions that it executed."""
    rng = np.random.default_rng(3)
    if name.startswith("i8"):
        depth = 32 if arch == "gfx942" else 16
        bits = [rng.integers(-128, 128, (16, depth)).astype(np.int8) for _ in range(2)]
        a, b = (matrix.astype(np.float64) for matrix in bits)
        c = rng.integers(-1000, 1000, (16, 16)).astype(np.int32)
    else:
        dtype = torch.bfloat16 if name.startswith("bf16") else torch.float16
        (bits_a, a), (bits_b, b) = halves(dtype), halves(dtype)
        bits = [bits_a, bits_b]
        c = rng.standard_normal((16, 16)).astype(np.float32)
    threads = 64 if arch == "gfx942" else 32
    values = [*(Input(m) for m in bits), Input(c), Output(poisoned((16, 16), c.dtype))]
    run = emulator.emulate(code, name, (1, 1, 1), (threads, 1, 1), values)
    units = [m for m in run.counts if m.startswith(("v_wmma", "v_mfma"))]
    return run.outputs[0], c + a @ b.T + b @ a.T, units


@pytest.mark.parametrize("arch", ARCHS)
def test_products(emulator: Emulator, compile_kernel: Compile, arch: str) -> None:
    code = compile_kernel(PRODUCTS, arch)
    for name in PLAIN:
        got, want, units = run_product(emulator, code, name, arch)
        assert len(units) == 1, name
        np.testing.assert_allclose(got, want, rtol=0, atol=0 if name == "i8_product" else 1e-5)


def test_sums_in_the_second_register_file(emulator: Emulator, compile_kernel: Compile) -> None:
    code = compile_kernel(PRODUCTS, "gfx942")
    got, want, _ = run_product(emulator, code, "f16_product_in_accumulators", "gfx942")
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_operands_in_the_second_register_file(emulator: Emulator, compile_kernel: Compile) -> None:
    """Also: EXEC does not matter, float16 denormals and infinities do."""
    code = compile_kernel(
        """
        typedef _Float16 half4 __attribute__((ext_vector_type(4)));
        typedef float float4_ __attribute__((ext_vector_type(4)));
        extern "C" __global__ void product(const half4* a, const half4* b, float4_* out) {
          const half4 x = a[threadIdx.x], y = b[threadIdx.x];
          float4_ sum = {};
          asm volatile(
              "s_mov_b64 s[20:21], exec\\n s_mov_b64 exec, 1\\n s_nop 4\\n"
              "v_mfma_f32_16x16x16_f16 %0, %1, %2, %3\\n s_mov_b64 exec, s[20:21]\\n s_nop 7"
              : "=v"(sum) : "a"(x), "a"(y), "v"(sum) : "s20", "s21");
          out[threadIdx.x] = sum;
        }
        """,
        "gfx942",
    )
    a, b = torch.zeros(2, 16, 16, dtype=torch.float16)
    a[:, 0] = torch.arange(16) * 2.0**-24
    a[5, 1] = float("inf")
    b[:, :2] = torch.arange(1, 17)[:, None] * 64.0
    # Lane 16 * g + r holds elements 4 * g to 4 * g + 3 of row r; of the sum, rows of column r.
    by_lane = [m.view(16, 4, 4).transpose(0, 1).contiguous().numpy() for m in (a, b)]
    out = Output(poisoned((4, 16, 4), np.float32))
    values = [*(Input(m) for m in by_lane), out]
    run = emulator.emulate(code, "product", (1, 1, 1), (64, 1, 1), values)
    got = torch.from_numpy(run.outputs[0]).transpose(1, 2).reshape(16, 16)
    assert torch.equal(got, a.float() @ b.float().T)


@pytest.mark.parametrize("arch", ["gfx1100", "gfx1201"])
def test_constant_operands(emulator: Emulator, compile_kernel: Compile, arch: str) -> None:
    """Constants share their numbers, 128 and up, with registers of another numbering."""
    width = 8 if arch == "gfx1201" else 16
    kernels = "".join(
        f"""
        extern "C" __global__ void product_{name}(const halves* x, float8* out) {{
          float8 sum;
          const halves a = x[threadIdx.x % 16];
          asm volatile("v_mov_b32 v128, 7.0\\n v_mov_b32 v242, 7.0\\n"
                       "v_wmma_f32_16x16x16_f16 %0, %1, %1, {c}"
                       : "=&v"(sum) : "v"(a){tie} : "v128", "v242");
          out[threadIdx.x] = sum;
        }}
        """
        for name, c, tie in (
            ("zero", "0", ""),
            ("register", "%2", ', "v"(float8{3, 3, 3, 3, 3, 3, 3, 3})'),
            ("one", "1.0", ""),
        )
    )
    types = f"""
        typedef _Float16 halves __attribute__((ext_vector_type({width})));
        typedef float float8 __attribute__((ext_vector_type(8)));
        """
    code = compile_kernel(types + kernels, arch)
    x = np.ones((16, width), np.float16)
    for name, c in (("zero", 0), ("register", 3), ("one", 1)):
        values = [Input(x), Output(poisoned((32, 8), np.float32))]
        run = emulator.emulate(code, f"product_{name}", (1, 1, 1), (32, 1, 1), values)
        np.testing.assert_array_equal(run.outputs[0], 16 + c)


@pytest.mark.parametrize("arch", ARCHS)
def test_atomics_give_the_old_value(emulator: Emulator, compile_kernel: Compile, arch: str) -> None:
    code = compile_kernel(
        """
        extern "C" __global__ void take(int* next, unsigned long long* wide, int* out) {
          out[threadIdx.x] = atomicAdd(next, 3);
          out[64 + threadIdx.x] = static_cast<int>(atomicAdd(wide, 1ull << 32) >> 32);
        }
        """,
        arch,
    )
    out = Output(poisoned((2, 64), np.int32))
    values = [Output(np.array([5], np.int32)), Output(np.array([7], np.uint64)), out]
    run = emulator.emulate(code, "take", (1, 1, 1), (64, 1, 1), values)
    assert run.outputs[0][0] == 5 + 3 * 64
    assert run.outputs[1][0] == 7 + (64 << 32)
    np.testing.assert_array_equal(np.sort(run.outputs[2][0]), 5 + 3 * np.arange(64))
    np.testing.assert_array_equal(np.sort(run.outputs[2][1]), np.arange(64))
