#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/norm.h"
#include "hip/reduce.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kShortRow = 32;  // threads of a row that needs few
constexpr int kHeld = 4;       // chunks of a row that a thread keeps in registers

template <typename T>
struct NormArgs {
  const T* x;
  RowLayout x_rows;
  const T* residual;
  RowLayout residual_rows;
  float eps;
  T* out;
  T* sum;
  int64_t rows;
  int width;
};

// One row on kLanes threads. What a thread holds is read once; of rows longer than that, the rest
// is read again, from the cache.
template <typename T, typename W, int kLanes, bool kVectors, bool kAdd>
__global__ void __launch_bounds__(kThreads)
    rms_norm_kernel(NormArgs<T> args, const W* __restrict__ weight) {
  constexpr int kCount = kStepElements<T, kVectors>;
  constexpr int kStep = kLanes * kCount, kRows = kThreads / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int width = args.width;
  for (int64_t row = blockIdx.x * int64_t{kRows} + threadIdx.x / kLanes; row < args.rows;
       row += gridDim.x * int64_t{kRows}) {
    const T* x = args.x + row_offset(args.x_rows, row);
    const T* residual = kAdd ? args.residual + row_offset(args.residual_rows, row) : nullptr;
    T* out = args.out + row * width;
    T* sum = kAdd ? args.sum + row * width : nullptr;
    float squares = 0.0f;
    const auto read = [&](int first, T(&values)[kCount]) {
      load_chunk<kLanes, kVectors>(x, width, first, lane, values);
      if constexpr (kAdd) {
        T others[kCount];
        load_chunk<kLanes, kVectors>(residual, width, first, lane, others);
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          values[j] = from_float<T>(to_float(values[j]) + to_float(others[j]));
        }
        store_chunk<kLanes, kVectors>(values, width, first, lane, sum);
      }
#pragma unroll
      for (int j = 0; j < kCount; ++j) squares += to_float(values[j]) * to_float(values[j]);
    };
    T held[kHeld][kCount];
#pragma unroll
    for (int c = 0; c < kHeld; ++c) {
      if (c * kStep < width) read(c * kStep, held[c]);
    }
    for (int first = kHeld * kStep; first < width; first += kStep) {
      T values[kCount];
      read(first, values);
    }
    const float scale = rsqrtf(lanes_sum<kLanes>(squares) / static_cast<float>(width) + args.eps);
    const auto write = [&](int first, T(&values)[kCount]) {
      W weights[kCount];
      if (weight) load_chunk<kLanes, kVectors>(weight, width, first, lane, weights);
#pragma unroll
      for (int j = 0; j < kCount; ++j) {
        const float value = to_float(values[j]) * scale;
        values[j] = from_float<T>(weight ? value * to_float(weights[j]) : value);
      }
      store_chunk<kLanes, kVectors>(values, width, first, lane, out);
    };
#pragma unroll
    for (int c = 0; c < kHeld; ++c) {
      if (c * kStep < width) write(c * kStep, held[c]);
    }
    for (int first = kHeld * kStep; first < width; first += kStep) {
      T values[kCount];
      load_chunk<kLanes, kVectors>(kAdd ? sum : x, width, first, lane, values);
      write(first, values);
    }
  }
}

template <bool kAdd>
Status norm(DType dtype, const void* x, const RowLayout& x_rows, const void* residual,
            const RowLayout& residual_rows, DType weight_dtype, const void* weight, float eps,
            void* out, void* sum, int64_t rows, int64_t width, Stream stream) {
  if (rows == 0 || width == 0) return nullptr;
  if (width > kMaxWidth) return kTooWide;
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t bytes = sizeof(T);
    const bool vectors = width % kChunk<T> == 0 && rows_aligned(x, x_rows, bytes) &&
                         rows_aligned(residual, residual_rows, bytes) && is_aligned(out) &&
                         is_aligned(sum) && is_aligned(weight);
    const NormArgs<T> args = {static_cast<const T*>(x),
                              x_rows,
                              static_cast<const T*>(residual),
                              residual_rows,
                              eps,
                              static_cast<T*>(out),
                              static_cast<T*>(sum),
                              rows,
                              static_cast<int>(width)};
    const auto launch = [&](auto weight_element) {
      using W = decltype(weight_element);
      const bool is_short = vectors && width <= kShortRow * kHeld * kChunk<T>;
      constexpr int kShortRows = kThreads / kShortRow;
      const int64_t blocks = is_short ? (rows + kShortRows - 1) / kShortRows : rows;
      const auto kernel = is_short  ? rms_norm_kernel<T, W, kShortRow, true, kAdd>
                          : vectors ? rms_norm_kernel<T, W, kThreads, true, kAdd>
                                    : rms_norm_kernel<T, W, kThreads, false, kAdd>;
      kernel<<<grid_size(blocks), kThreads, 0, static_cast<gpuStream_t>(stream)>>>(
          args, static_cast<const W*>(weight));
    };
    if (weight_dtype == DType::kFloat32) {
      launch(float{});
    } else {
      launch(element);
    }
  });
  return launch_status();
}

}  // namespace

Status rms_norm(DType dtype, const void* x, const RowLayout* x_rows, DType weight_dtype,
                const void* weight, float eps, void* out, int64_t rows, int64_t width,
                Stream stream) {
  return norm<false>(dtype, x, *x_rows, nullptr, {}, weight_dtype, weight, eps, out, nullptr, rows,
                     width, stream);
}

Status add_rms_norm(DType dtype, const void* x, const RowLayout* x_rows, const void* residual,
                    const RowLayout* residual_rows, DType weight_dtype, const void* weight,
                    float eps, void* out, void* sum, int64_t rows, int64_t width, Stream stream) {
  return norm<true>(dtype, x, *x_rows, residual, *residual_rows, weight_dtype, weight, eps, out,
                    sum, rows, width, stream);
}

}  // namespace rocmforge::gpu
