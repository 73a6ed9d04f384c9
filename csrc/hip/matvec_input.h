// Rows of activations as a product takes them: as they are in memory, or normed on the way.
#pragma once

#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/matvec.h"
#include "hip/reduce.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {

// Neighbouring numbers that a thread reads at once.
constexpr int kInputChunk = 8;
using InputChunk = float[kInputChunk];

template <typename In>
__device__ __forceinline__ void read_chunk(const In* from, bool aligned, InputChunk& values) {
  constexpr int kCount = kChunk<In>;
  if (aligned) {
#pragma unroll
    for (int i = 0; i < kInputChunk; i += kCount) {
      const auto chunk = *reinterpret_cast<const Chunk<In, kCount>*>(from + i);
#pragma unroll
      for (int j = 0; j < kCount; ++j) values[i + j] = to_float(chunk.values[j]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kInputChunk; ++i) values[i] = to_float(from[i]);
  }
}

// values = data[at, at + 8).
__device__ __forceinline__ void read_chunk_as(DType dtype, const void* data, int64_t at,
                                              InputChunk& values) {
  const bool aligned = reinterpret_cast<uintptr_t>(data) % 16 == 0;
  switch (dtype) {
    case DType::kFloat32:
      return read_chunk(static_cast<const float*>(data) + at, aligned, values);
    case DType::kFloat16:
      return read_chunk(static_cast<const __half*>(data) + at, aligned, values);
    case DType::kBFloat16:
      return read_chunk(static_cast<const gpu_bfloat16*>(data) + at, aligned, values);
  }
}

__device__ __forceinline__ float rounded_to(DType dtype, float value) {
  switch (dtype) {
    case DType::kFloat16:
      return to_float(from_float<__half>(value));
    case DType::kBFloat16:
      return to_float(from_float<gpu_bfloat16>(value));
    default:
      return value;
  }
}

// kRows rows of x [kRows, cols], contiguous, for the kThreads threads of a block. With a norm,
// every block computes it for itself: reading x again costs less than a kernel of its own would.
// Results are rounded to x's dtype where rms_norm and add_rms_norm would store them.
template <int kRows, int kThreads>
class MatvecInput {
 public:
  __device__ __forceinline__ MatvecInput(DType dtype, const void* x, int cols,
                                         const InputNorm& norm)
      : dtype_(dtype), x_(x), cols_(cols), norm_(norm) {
    if (!norm.is_used) return;
    if (norm.x_weight) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        scales_of_x_[row] =
            scale_of([&](int col, InputChunk& values) { read_x(row, col, values); });
      }
    }
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      scales_[row] = scale_of([&](int col, InputChunk& values) {
        read_total(row, col, values);
        if (!norm.total || blockIdx.x != 0) return;
#pragma unroll
        for (int i = 0; i < kInputChunk; ++i) {
          store_as(dtype_, norm_.total, place(row, col) + i, values[i]);
        }
      });
    }
  }

  // values = columns [col, col + 8) of a row.
  __device__ __forceinline__ void read(int row, int col, InputChunk& values) const {
    if (!norm_.is_used) return read_x(row, col, values);
    read_total(row, col, values);
    scale(norm_.weight, scales_[row], col, values);
  }

 private:
  __device__ __forceinline__ int64_t place(int row, int col) const {
    return static_cast<int64_t>(row) * cols_ + col;
  }
  __device__ __forceinline__ void read_x(int row, int col, InputChunk& values) const {
    read_chunk_as(dtype_, x_, place(row, col), values);
  }
  // x, normed if it has a weight of its own, plus the residual.
  __device__ __forceinline__ void read_total(int row, int col, InputChunk& values) const {
    read_x(row, col, values);
    if (norm_.x_weight) scale(norm_.x_weight, scales_of_x_[row], col, values);
    if (!norm_.residual) return;
    InputChunk others;
    read_chunk_as(dtype_, norm_.residual, place(row, col), others);
#pragma unroll
    for (int i = 0; i < kInputChunk; ++i) values[i] = rounded_to(dtype_, values[i] + others[i]);
  }
  __device__ __forceinline__ void scale(const void* weight, float by, int col,
                                        InputChunk& values) const {
    InputChunk weights;
    if (weight) read_chunk_as(norm_.weight_dtype, weight, col, weights);
#pragma unroll
    for (int i = 0; i < kInputChunk; ++i) {
      const float value = values[i] * by;
      values[i] = rounded_to(dtype_, weight ? value * weights[i] : value);
    }
  }
  // 1 / sqrt(mean of squares + eps) of what `read` gives.
  template <typename Read>
  __device__ __forceinline__ float scale_of(Read read) const {
    float squares = 0.0f;
    for (int col = kInputChunk * static_cast<int>(threadIdx.x); col < cols_;
         col += kInputChunk * kThreads) {
      InputChunk values;
      read(col, values);
#pragma unroll
      for (const float value : values) squares += value * value;
    }
    return rsqrtf(block_sum<kThreads>(squares) / static_cast<float>(cols_) + norm_.eps);
  }

  DType dtype_;
  const void* x_;
  int cols_;
  InputNorm norm_;
  float scales_of_x_[kRows], scales_[kRows];
};

}  // namespace rocmforge::gpu
