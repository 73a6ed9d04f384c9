#include "hip/dispatch.h"
#include "hip/norm.h"
#include "hip/norm_row.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;

template <typename T>
struct NormArgs {
  const T* x;
  RowLayout x_rows;
  const T* residual;
  RowLayout residual_rows;
  const void* x_weight;  // null, or x is normed by it first; of the weight's type
  float eps;
  T* out;
  T* sum;
  int64_t rows;
  int width;
};

// This thread's part of a norm's result.
template <typename T, typename W, int kCount>
__device__ __forceinline__ void scale_chunk(T (&values)[kCount], float factor, bool weighted,
                                            const W (&weights)[kCount]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) {
    values[j] =
        weighted ? normed(values[j], factor, to_float(weights[j])) : normed(values[j], factor);
  }
}

// One row on kLanes threads. What a thread holds is read once; of rows longer than that, the rest
// is read again, from the cache.
template <typename T, typename W, int kLanes, bool kVectors, bool kAdd>
__global__ void __launch_bounds__(kThreads) rms_norm_kernel(NormArgs<T> args, const W* weight) {
  follow_previous();
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
    const auto load = [&](int first, T(&values)[kCount]) {
      load_chunk<kLanes, kVectors>(x, width, first, lane, values);
    };
    const auto load_residual = [&](int first, T(&values)[kCount]) {
      if constexpr (kAdd) load_chunk<kLanes, kVectors>(residual, width, first, lane, values);
    };
    const auto load_weight = [&](int first, W(&values)[kCount]) {
      if (weight) load_chunk<kLanes, kVectors>(weight, width, first, lane, values);
    };
    // What is held is loaded at once, before anything waits.
    T held[kHeldChunks][kCount], held_residual[kHeldChunks][kCount];
    W held_weight[kHeldChunks][kCount];
#pragma unroll
    for (int c = 0; c < kHeldChunks; ++c) {
      if (c * kStep >= width) continue;
      load(c * kStep, held[c]);
      load_residual(c * kStep, held_residual[c]);
      load_weight(c * kStep, held_weight[c]);
    }
    const W* x_weight = kAdd ? static_cast<const W*>(args.x_weight) : nullptr;
    float x_factor = 1.0f;
    if (x_weight) {
      float squares = 0.0f;
#pragma unroll
      for (int c = 0; c < kHeldChunks; ++c) {
        if (c * kStep < width) add_squares(held[c], squares);
      }
      for (int first = kHeldChunks * kStep; first < width; first += kStep) {
        T values[kCount];
        load(first, values);
        add_squares(values, squares);
      }
      x_factor = norm_factor<kLanes>(squares, width, args.eps);
    }
    float squares = 0.0f;
    const auto take = [&](int first, T(&values)[kCount], const T(&others)[kCount]) {
      if constexpr (kAdd) {
        if (x_weight) {
          W weights[kCount];
          load_chunk<kLanes, kVectors>(x_weight, width, first, lane, weights);
          scale_chunk(values, x_factor, true, weights);
        }
#pragma unroll
        for (int j = 0; j < kCount; ++j) {
          values[j] = from_float<T>(to_float(values[j]) + to_float(others[j]));
        }
        store_chunk<kLanes, kVectors>(values, width, first, lane, sum);
      }
      add_squares(values, squares);
    };
#pragma unroll
    for (int c = 0; c < kHeldChunks; ++c) {
      if (c * kStep < width) take(c * kStep, held[c], held_residual[c]);
    }
    for (int first = kHeldChunks * kStep; first < width; first += kStep) {
      T values[kCount], others[kCount];
      load(first, values);
      load_residual(first, others);
      take(first, values, others);
    }
    const float factor = norm_factor<kLanes>(squares, width, args.eps);
    const auto write = [&](int first, T(&values)[kCount], const W(&weights)[kCount]) {
      scale_chunk(values, factor, weight != nullptr, weights);
      store_chunk<kLanes, kVectors>(values, width, first, lane, out);
    };
#pragma unroll
    for (int c = 0; c < kHeldChunks; ++c) {
      if (c * kStep < width) write(c * kStep, held[c], held_weight[c]);
    }
    for (int first = kHeldChunks * kStep; first < width; first += kStep) {
      T values[kCount];
      W weights[kCount];
      load_chunk<kLanes, kVectors>(kAdd ? sum : x, width, first, lane, values);
      load_weight(first, weights);
      write(first, values, weights);
    }
  }
}

template <bool kAdd>
Status norm(DType dtype, const void* x, const RowLayout& x_rows, const void* residual,
            const RowLayout& residual_rows, DType weight_dtype, const void* weight,
            const void* x_weight, float eps, void* out, void* sum, int64_t rows, int64_t width,
            Stream stream) {
  if (rows == 0 || width == 0) return nullptr;
  if (width > kMaxWidth) return kTooWide;
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    const int64_t bytes = sizeof(T);
    const bool vectors = width % kChunk<T> == 0 && rows_aligned(x, x_rows, bytes) &&
                         rows_aligned(residual, residual_rows, bytes) && is_aligned(out) &&
                         is_aligned(sum) && is_aligned(weight) && is_aligned(x_weight);
    const NormArgs<T> args = {static_cast<const T*>(x),
                              x_rows,
                              static_cast<const T*>(residual),
                              residual_rows,
                              x_weight,
                              eps,
                              static_cast<T*>(out),
                              static_cast<T*>(sum),
                              rows,
                              static_cast<int>(width)};
    const auto launch = [&](auto weight_element) {
      using W = decltype(weight_element);
      const bool is_short = vectors && width <= kShortRow * kHeldChunks * kChunk<T>;
      constexpr int kShortRows = kThreads / kShortRow;
      const int64_t blocks = is_short ? (rows + kShortRows - 1) / kShortRows : rows;
      const auto kernel = is_short  ? rms_norm_kernel<T, W, kShortRow, true, kAdd>
                          : vectors ? rms_norm_kernel<T, W, kThreads, true, kAdd>
                                    : rms_norm_kernel<T, W, kThreads, false, kAdd>;
      launch_early(kernel, grid_size(blocks), kThreads, 0, static_cast<gpuStream_t>(stream), args,
                   static_cast<const W*>(weight));
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
  return norm<false>(dtype, x, *x_rows, nullptr, {}, weight_dtype, weight, nullptr, eps, out,
                     nullptr, rows, width, stream);
}

Status add_rms_norm(DType dtype, const void* x, const RowLayout* x_rows, const void* residual,
                    const RowLayout* residual_rows, DType weight_dtype, const void* weight,
                    const void* x_weight, float eps, void* out, void* sum, int64_t rows,
                    int64_t width, Stream stream) {
  return norm<true>(dtype, x, *x_rows, residual, *residual_rows, weight_dtype, weight, x_weight,
                    eps, out, sum, rows, width, stream);
}

}  // namespace rocmforge::gpu
