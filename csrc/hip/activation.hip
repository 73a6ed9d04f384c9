#include "hip/activation.h"
#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dispatch.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;

struct Silu {
  static __device__ __forceinline__ float of(float x) { return x / (1.0f + expf(-x)); }
};

// 0.5 * x * (1 + tanh(u)) = x * sigmoid(2u), which does not cancel.
struct Gelu {
  static __device__ __forceinline__ float of(float x) {
    constexpr float kTwiceSqrt2OverPi = 1.5957691216057308f;
    return x / (1.0f + expf(-kTwiceSqrt2OverPi * (x + 0.044715f * x * x * x)));
  }
};

template <typename Activation, typename T>
__global__ void __launch_bounds__(kThreads)
    gated_kernel(const T* __restrict__ gate, RowLayout gate_rows, const T* __restrict__ up,
                 RowLayout up_rows, T* __restrict__ out, int64_t rows, int64_t width,
                 bool vectors) {
  constexpr int kCount = kChunk<T>, kStep = kThreads * kCount;
  const int lane = threadIdx.x;
  const int64_t blocks_per_row = (width + kStep - 1) / kStep;
  for (int64_t block = blockIdx.x; block < rows * blocks_per_row; block += gridDim.x) {
    const int64_t row = blocks_per_row == 1 ? block : block / blocks_per_row;
    const int64_t first = (block - row * blocks_per_row) * kStep;
    T gates[kCount], ups[kCount];
    load_chunk<kThreads>(gate + row_offset(gate_rows, row), width, first, lane, vectors, gates);
    load_chunk<kThreads>(up + row_offset(up_rows, row), width, first, lane, vectors, ups);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      gates[j] = from_float<T>(Activation::of(to_float(gates[j])) * to_float(ups[j]));
    }
    store_chunk<kThreads>(gates, width, first, lane, vectors, out + row * width);
  }
}

template <typename Activation>
Status gated(DType dtype, const void* gate, const RowLayout& gate_rows, const void* up,
             const RowLayout& up_rows, void* out, int64_t rows, int64_t width, Stream stream) {
  if (rows == 0 || width == 0) return nullptr;
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t bytes = sizeof(T), step = kThreads * kChunk<T>;
    const bool vectors = width % kChunk<T> == 0 && rows_aligned(gate, gate_rows, bytes) &&
                         rows_aligned(up, up_rows, bytes) && is_aligned(out);
    gated_kernel<Activation, T><<<grid_size(rows * ((width + step - 1) / step)), kThreads, 0,
                                  static_cast<gpuStream_t>(stream)>>>(
        static_cast<const T*>(gate), gate_rows, static_cast<const T*>(up), up_rows,
        static_cast<T*>(out), rows, width, vectors);
  });
  return launch_status();
}

}  // namespace

Status silu_mul(DType dtype, const void* gate, const RowLayout* gate_rows, const void* up,
                const RowLayout* up_rows, void* out, int64_t rows, int64_t width, Stream stream) {
  return gated<Silu>(dtype, gate, *gate_rows, up, *up_rows, out, rows, width, stream);
}

Status gelu_mul(DType dtype, const void* gate, const RowLayout* gate_rows, const void* up,
                const RowLayout* up_rows, void* out, int64_t rows, int64_t width, Stream stream) {
  return gated<Gelu>(dtype, gate, *gate_rows, up, *up_rows, out, rows, width, stream);
}

}  // namespace rocmforge::gpu
