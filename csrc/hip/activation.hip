#include "hip/activation.h"
#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/gates.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;

template <typename Gate, typename T, bool kVectors>
__global__ void __launch_bounds__(kThreads)
    gated_kernel(const T* gate, RowLayout gate_rows, const T* up, RowLayout up_rows,
                 T* __restrict__ out, int64_t rows, int width, int blocks_per_row) {
  follow_previous();
  constexpr int kCount = kStepElements<T, kVectors>, kStep = kThreads * kCount;
  const int lane = threadIdx.x;
  for (int64_t block = blockIdx.x; block < rows * blocks_per_row; block += gridDim.x) {
    const int64_t row = blocks_per_row == 1 ? block : block / blocks_per_row;
    const int first = static_cast<int>(block - row * blocks_per_row) * kStep;
    T gates[kCount], ups[kCount];
    load_chunk<kThreads, kVectors>(gate + row_offset(gate_rows, row), width, first, lane, gates);
    load_chunk<kThreads, kVectors>(up + row_offset(up_rows, row), width, first, lane, ups);
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      gates[j] = from_float<T>(Gate::of(to_float(gates[j])) * to_float(ups[j]));
    }
    store_chunk<kThreads, kVectors>(gates, width, first, lane, out + row * width);
  }
}

template <typename Gate>
Status gated(DType dtype, const void* gate, const RowLayout& gate_rows, const void* up,
             const RowLayout& up_rows, void* out, int64_t rows, int64_t width, Stream stream) {
  if (rows == 0 || width == 0) return nullptr;
  if (width > kMaxWidth) return kTooWide;
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t bytes = sizeof(T);
    const bool aligned = width % kChunk<T> == 0 && rows_aligned(gate, gate_rows, bytes) &&
                         rows_aligned(up, up_rows, bytes) && is_aligned(out);
    with_bool(aligned, [&](auto vectors) {
      constexpr bool kVectors = decltype(vectors)::value;
      constexpr int kStep = kThreads * kStepElements<T, kVectors>;
      const int blocks = static_cast<int>((width + kStep - 1) / kStep);
      launch_early(gated_kernel<Gate, T, kVectors>, grid_size(rows * blocks), kThreads, 0,
                   static_cast<gpuStream_t>(stream), static_cast<const T*>(gate), gate_rows,
                   static_cast<const T*>(up), up_rows, static_cast<T*>(out), rows,
                   static_cast<int>(width), blocks);
    });
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
