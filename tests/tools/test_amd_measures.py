"""What the report reads out of code objects, on kernels whose answer is known."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.amd.analysis import Measure, classify, measure
from tools.amd.architectures import ARCHITECTURES, CHECKED
from tools.amd.code_object import CodeObject, short_names
from tools.amd.disassembly import disassemble
from tools.amd.loops import innermost, loops
from tools.amd.products import product_of
from tools.amd.toolchain import Toolchain, find_program

Compile = Callable[[str, str], CodeObject]

SPILLING = """
extern "C" __global__ void __launch_bounds__(1024) spilling(float* x, int at) {
  float values[512];
  for (int i = 0; i < 512; ++i) values[i] = x[i * at];
  for (int i = 0; i < 512; ++i) values[(i * at) & 511] += values[i];
  for (int i = 0; i < 512; ++i) x[i] = values[i];
}
"""
# Four 16-byte loads of the weights and one of the activations, all before the first use.
STREAM = """
extern "C" __global__ void stream(const uint4* __restrict__ weights, const uint4* __restrict__ x,
                                  unsigned* __restrict__ out, int turns) {
  unsigned sum = 0;
#pragma clang loop unroll(disable)
  for (int t = 0; t < turns; ++t) {
    const uint4* row = weights + static_cast<long>(t) * 4 * 64 + threadIdx.x;
    const uint4 a = row[0], b = row[64], c = row[128], d = row[192];
    const uint4 e = x[t * 64 + threadIdx.x];
    sum += (a.x ^ b.y ^ c.z ^ d.w ^ a.y ^ b.z ^ c.w ^ d.x ^ a.z ^ b.w ^ c.x ^ d.y) * e.x;
    sum ^= (a.w ^ b.x ^ c.y ^ d.z) * (e.y ^ e.z ^ e.w);
  }
  out[threadIdx.x] = sum;
}
"""
DOTS = """
extern "C" __global__ void dots(const int* a, const int* b, int* out) {
#if defined(__GFX11__) || defined(__GFX12__)
  out[threadIdx.x] = __builtin_amdgcn_sudot4(true, a[threadIdx.x], true, b[threadIdx.x], 1, false);
#else
  out[threadIdx.x] = __builtin_amdgcn_sdot4(a[threadIdx.x], b[threadIdx.x], 1, false);
#endif
}
"""
# As many live registers as `count`, which no architecture can do without.
REGISTERS = """
extern "C" __global__ void __launch_bounds__(256) needs_{count}_{lds}(
    const float* x, float* out, int n) {{
  __shared__ float shared[{lds}];
  float values[{count}];
#pragma unroll
  for (int i = 0; i < {count}; ++i) values[i] = x[threadIdx.x + i * 256];
  shared[threadIdx.x] = values[0];
  __syncthreads();
  for (int t = 0; t < n; ++t) {{
#pragma unroll
    for (int i = 0; i < {count}; ++i) values[i] = values[i] * values[(i + 7) % {count}] + shared[t];
  }}
#pragma unroll
  for (int i = 0; i < {count}; ++i) out[threadIdx.x + i * 256] = values[i];
}}
"""


def only(code: CodeObject, weights: list[int] | None = None) -> Measure:
    (symbol,) = code.kernels
    (found,) = measure(code, {symbol: weights} if weights is not None else {})
    return found


@pytest.mark.parametrize("arch", ["gfx1100", "gfx942"])
def test_scratch_is_seen(compile_code: Compile, arch: str) -> None:
    m = only(compile_code(SPILLING, arch))
    assert m.kernel.scratch_bytes >= 512 * 4
    assert m.counts["scratch"] > 0
    assert m.kernel.threads == 1024


@pytest.mark.parametrize("arch", CHECKED)
def test_bytes_in_flight_are_those_of_the_weights(compile_code: Compile, arch: str) -> None:
    code = compile_code(STREAM, arch)
    weights, everything = only(code, [0]), only(code)
    a = ARCHITECTURES[arch]
    assert weights.loop is not None
    assert weights.loop.weight_bytes == 4 * 16
    assert weights.in_flight == 4 * 16 * a.wave * weights.occupancy * a.simds_per_cu
    assert everything.in_flight * 4 == weights.in_flight * 5
    assert weights.loop.counts["load16"] == 5
    assert weights.loop.cycles >= weights.loop.instructions / 2


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_integer_dot_instructions_are_counted(compile_code: Compile, arch: str) -> None:
    assert only(compile_code(DOTS, arch)).counts["dot"] == 1


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_occupancy_is_the_compilers(
    toolchain: Toolchain, kernel_source: Callable[[str], Path], tmp_path: Path, arch: str
) -> None:
    needs = [(8, 256), (60, 256), (110, 256), (8, 8192)]
    source = kernel_source("".join(REGISTERS.format(count=c, lds=lds) for c, lds in needs))
    out = tmp_path / "kernel.co"
    flags = ["--cuda-device-only", "--no-gpu-bundle-output", "-O3"]
    remarks = subprocess.run(
        [
            *(find_program("clang++"), *toolchain.hip_flags([arch]), *flags),
            *("-Rpass-analysis=kernel-resource-usage", "-o", str(out), str(source)),
        ],
        check=True,
        capture_output=True,
        text=True,
    ).stderr
    names = re.findall(r"Function Name: (\w+)", remarks)
    waves = [int(n) for n in re.findall(r"Occupancy \[waves/SIMD\]: (\d+)", remarks)]
    measured = {m.kernel.name: m.occupancy for m in measure(CodeObject.read(out), {})}
    assert measured == dict(zip(names, waves, strict=True))
    assert len(measured) == len(needs)


def test_the_innermost_loop_is_found(compile_code: Compile) -> None:
    code = compile_code(
        """
        extern "C" __global__ void nested(const float* x, float* out, int n, int m) {
          float sum = 0;
          for (int i = 0; i < n; ++i) {
            sum *= 1.5f;
        #pragma clang loop unroll(disable)
            for (int j = 0; j < m; ++j) sum += x[(i * m + j) * 64 + threadIdx.x];
          }
          out[threadIdx.x] = sum;
        }
        """,
        "gfx1100",
    )
    body = disassemble(code)["nested"]
    loading = [loop for loop in innermost(loops(body)) if classify(loop.body)["load"]][-1]
    assert not any(i.mnemonic.startswith(("v_mul_f32", "s_mul_f32")) for i in loading.body)
    main = only(code).loop
    assert main is not None
    assert (main.counts["load"], main.weight_bytes) == (1, 4)


def test_arguments_and_names(compile_code: Compile) -> None:
    code = compile_code(
        """
        namespace a { namespace {
        template <typename T, int N> __global__ void f(T* x, int n, short s) { x[n] = s + N; }
        } }
        template __global__ void a::f<float, 3>(float*, int, short);
        """,
        "gfx1100",
    )
    (kernel,) = code.kernels.values()
    assert kernel.name == "f<float, 3>"
    assert [(a.offset, a.size, a.may_point) for a in kernel.arguments] == [
        (0, 8, True),
        (8, 4, False),
        (12, 2, False),
    ]


def test_short_names_keep_template_arguments_only() -> None:
    mangled = "_ZN9rocmforge3gpu12_GLOBAL__N_115rms_norm_kernelI6__halfS3_EEvPKT_lPKT0_fPS4_i"
    assert short_names([mangled, "plain"]) == ["rms_norm_kernel<f16, f16>", "plain"]


def test_other_files_are_refused() -> None:
    with pytest.raises(ValueError, match="not AMD code"):
        CodeObject(Path(find_program("clang++")).read_bytes())


# A turn multiplies 2 x 16 weights, in code that LLVM lays out with the rare part behind the loop.
PRODUCT = """
struct Q8_0;
template <typename T, int M> __global__ void product(
    const uint4* __restrict__ w, const uint4* __restrict__ x, float* out, int turns, int every) {
  int sum = 0;
#pragma clang loop unroll(disable)
  for (int t = 0; t < turns; ++t) {
    const uint4 a = w[t * 32 + threadIdx.x], b = w[(t + turns) * 32 + threadIdx.x];
    const uint4 c = x[t];
#define DOT(s, a, b) s = __builtin_amdgcn_sudot4(true, a, true, b, s, false)
    DOT(sum, a.x, c.x); DOT(sum, a.y, c.y); DOT(sum, a.z, c.z); DOT(sum, a.w, c.w);
    DOT(sum, b.x, c.x); DOT(sum, b.y, c.y); DOT(sum, b.z, c.z); DOT(sum, b.w, c.w);
    if (__builtin_expect(t % every == 0, 0)) {
      out[t] = expf(sqrtf(static_cast<float>(sum)));
      sum = 0;
    }
  }
  out[turns] = sum;
}
template __global__ void product<Q8_0, 2>(const uint4*, const uint4*, float*, int, int);
"""


def test_issue_cycles_of_a_product(compile_code: Compile) -> None:
    m = only(compile_code(PRODUCT, "gfx1100"), [0])
    assert m.product is not None
    assert (m.product.qtype.name, m.product.rows) == ("Q8_0", 2)
    assert m.loop is not None
    assert (m.loop.counts["dot"], m.loop.weight_bytes) == (8, 32)
    # What happens once in a while is not of the turn, though it is inside the loop.
    assert m.loop.counts["store"] == 0
    assert m.loop.instructions <= 40
    # 16 weights of 34/32 bytes: a lane's share of what two SIMDs of 32 lanes get in a turn.
    seconds_of_memory = 16 * 34 / 32 * 64 / (800e9 / 84)
    assert m.issue_percent == round(100 * m.loop.cycles / 2.4e9 / seconds_of_memory, 1)
    assert m.numbers["issue_percent"] == m.issue_percent


def test_products_are_named() -> None:
    product = product_of("matvec_kernel<IQ2_S, PackedView<IQ2_S>, 2>")
    assert product is not None
    assert product.weight_bytes(64) == 128 * 82 / 256
    assert product_of("rms_norm_kernel<float, f16, 256, true>") is None
    assert product_of("convert_kernel<F16, FileView<F16>>") is None


def test_loops_are_natural_ones(compile_code: Compile) -> None:
    code = compile_code(PRODUCT, "gfx1100")
    (symbol,) = code.kernels
    body = disassemble(code)[symbol]
    (loop,) = loops(body)
    stores = [i.address for i in loop.body if classify([i])["store"]]
    assert stores, "the rare part is of the loop"
    assert set(stores) <= loop.detours
    work = loop.without(lambda i: i.mnemonic.startswith("v_dot4"))
    assert not classify(work.body)["store"]
    assert classify(work.body)["dot"] == 8
