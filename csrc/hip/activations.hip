#include "hip/activations.h"

#include "hip/convert.h"
#include "hip/dispatch.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kBlock = 32;  // activations that share a scale

template <typename T>
__global__ void __launch_bounds__(kThreads)
    quantize_activations_kernel(const T* __restrict__ x, int64_t stride, int64_t cols,
                                int64_t count, QuantActivations out) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const bool inside = i < count;  // whole blocks are in or out: cols is a multiple of kBlock
  const float value = inside ? to_float(x[i / cols * stride + i % cols]) : 0.0f;
  float largest = fabsf(value);
#pragma unroll
  for (int mask = kBlock / 2; mask > 0; mask /= 2) {
    largest = fmaxf(largest, wave_shuffle_xor(largest, mask));
  }
  const float scale = largest / 127.0f;
  const int code = scale > 0.0f ? __float2int_rn(value / scale) : 0;
  int sum = code;
#pragma unroll
  for (int mask = 8; mask > 0; mask /= 2) sum += wave_shuffle_xor(sum, mask);
  if (!inside) return;
  out.codes[i] = static_cast<int8_t>(code);
  if (i % kBlock == 0) out.scales[i / kBlock] = scale;
  if (i % 16 == 0) out.sums[i / 16] = scale * static_cast<float>(sum);
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
                            const QuantActivations& out, Stream stream) {
  const int64_t count = rows * cols;
  if (count == 0) return nullptr;
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    quantize_activations_kernel<T>
        <<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0,
           static_cast<gpuStream_t>(stream)>>>(static_cast<const T*>(x), stride, cols, count, out);
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
