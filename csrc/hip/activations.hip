#include "hip/activations.h"
#include "hip/convert.h"
#include "hip/dispatch.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kBlock = 32;  // activations that share a scale

template <typename T>
__global__ void __launch_bounds__(kThreads)
    quantize_activations_kernel(const T* __restrict__ x, int64_t stride, int rows, int cols,
                                QuantActivations out) {
  const int col = static_cast<int>(blockIdx.x) * kThreads + static_cast<int>(threadIdx.x);
  const int row = static_cast<int>(blockIdx.y);
  const bool inside = col < cols;  // whole blocks are in or out: cols is a multiple of kBlock
  const float value = inside ? to_float(x[(row < rows ? row : rows - 1) * stride + col]) : 0.0f;
  // As integers the magnitudes are ordered with NaN above infinity, so that neither is lost.
  uint32_t largest = __float_as_uint(fabsf(value));
#pragma unroll
  for (int mask = kBlock / 2; mask > 0; mask /= 2) {
    const uint32_t other = wave_shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  const float scale = __uint_as_float(largest) / 127.0f;
  // A subnormal scale is coarse: the quotient may pass 127.
  const float quotient = scale > 0.0f ? fminf(fmaxf(value / scale, -127.0f), 127.0f) : 0.0f;
  const int code = __float2int_rn(quotient);
  int sum = code;
#pragma unroll
  for (int mask = 8; mask > 0; mask /= 2) sum += wave_shuffle_xor(sum, mask);
  if (!inside) return;
  const int64_t i = static_cast<int64_t>(row) * cols + col;
  out.codes[i] = static_cast<int8_t>(code);
  if (col % kBlock == 0) out.scales[i / kBlock] = scale;
  if (col % 16 == 0) out.sums[i / 16] = scale * static_cast<float>(sum);
}

constexpr int64_t round_up(int64_t n) { return (n + 255) / 256 * 256; }

}  // namespace

int64_t activation_bytes(int64_t rows, int64_t cols) {
  const int64_t n = rows * cols;
  return round_up(n) + round_up(n / 32 * 4) + n / 16 * 4;
}

QuantActivations place_activations(void* workspace, int64_t rows, int64_t cols) {
  const int64_t n = rows * cols;
  auto* bytes = static_cast<uint8_t*>(workspace);
  return {reinterpret_cast<int8_t*>(bytes), reinterpret_cast<float*>(bytes + round_up(n)),
          reinterpret_cast<float*>(bytes + round_up(n) + round_up(n / 32 * 4))};
}

Status quantize_activations(DType dtype, const void* x, int64_t stride, int64_t rows, int64_t cols,
                            int64_t out_rows, const QuantActivations& out, Stream stream) {
  if (rows == 0 || cols == 0) return nullptr;
  const dim3 grid(static_cast<unsigned>((cols + kThreads - 1) / kThreads),
                  static_cast<unsigned>(out_rows));
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    quantize_activations_kernel<T><<<grid, kThreads, 0, static_cast<gpuStream_t>(stream)>>>(
        static_cast<const T*>(x), stride, static_cast<int>(rows), static_cast<int>(cols), out);
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
