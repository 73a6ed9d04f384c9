// Rows of x rounded to 8 bits, in the order in which the lanes of multirow_kernel.h read them.
#pragma once

#include "hip/input_norm.h"
#include "hip/mma_int8.h"
#include "hip/quants/slices.h"
#include "hip/reduce.h"
#include "hip/rounding.h"

namespace rocmforge::gpu {

// x goes by bodies: some steps of a row of weights, so many that lanes can read whole uint4s. A
// body has the codes of every group and row (see b_place), the factors of every unit and row, and
// the residuals. What is past the columns, and the rows past the last, are zeros.
template <class T, int kCols>
struct Body {
  static constexpr int kSteps = !kWordwise<T> ? 4 : T::kGroups >= 4 ? 1 : 4 / T::kGroups;
  static constexpr int kGroups = kSteps * T::kGroups, kUnits = kGroups / T::kSpan;
  static constexpr int kWidth = 16 * kGroups;  // columns
  using Factor = typename Rounding<T>::Factor;
  static constexpr int kFactors = kGroups * kCols * 16;
  static constexpr int kResiduals = kFactors + kUnits * kCols * static_cast<int>(sizeof(Factor));
  static constexpr int kBytes = kResiduals + (T::kMins ? kUnits * kCols * 4 : 0);

  static constexpr int64_t count(int64_t cols) { return (cols + kWidth - 1) / kWidth; }
};

template <class T, int kCols>
struct MultirowInput {
  using B = Body<T, kCols>;
  DType dtype;
  const void* x;
  int rows, cols;
  uint8_t* bodies;

  __device__ __forceinline__ void store(int row, int col, const Rounding<T>& rounded) const {
    const PlaceInSteps<T> at(col);
    uint8_t* const body = bodies + static_cast<int64_t>(at.step / B::kSteps) * B::kBytes;
    const int group = at.step % B::kSteps * T::kGroups + at.group;
    auto* const words = reinterpret_cast<uint32_t*>(body) + group / kSlots * (kCols * kSlots * 4) +
                        group % kSlots * kLaneWords;
#pragma unroll
    for (int i = 0; i < kRoundedAtOnce / 4; ++i) {
      const int word = 2 * at.half + i;
      words[b_place<kCols>(row, word / kLaneWords) * 4 + word % kLaneWords] = rounded.codes[i];
    }
    if (!at.is_first()) return;
    const int unit = group / T::kSpan * kCols + row;
    reinterpret_cast<typename B::Factor*>(body + B::kFactors)[unit] = rounded.factor;
    if constexpr (T::kMins) {
      reinterpret_cast<float*>(body + B::kResiduals)[unit] = rounded.residual;
    }
  }
};

constexpr int kMultirowInputThreads = 128;

// A row to blockIdx.y; the threads of a row share its columns, of which there are `width` with
// those past the last.
template <class T, int kCols>
__global__ void __launch_bounds__(kMultirowInputThreads)
    multirow_input_kernel(MultirowInput<T, kCols> input, int width) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.y);
  const int at = static_cast<int>(blockIdx.x * kMultirowInputThreads + threadIdx.x);
  const int col = at * kRoundedAtOnce;
  LoadedWords loaded = {};
  if (row < input.rows && col < input.cols) {
    loaded = load_words_of(input.dtype, input.x, static_cast<int64_t>(row) * input.cols + col);
  }
  float values[kRoundedAtOnce];
  values_of(input.dtype, loaded, values);
  const Rounding<T> rounded(values);
  if (col < width) input.store(row, col, rounded);
}

constexpr int kNormedInputThreads = 512;

// A row to a block, which norms it before. A thread takes kRoundedAtOnce neighbours at a time.
template <class T, int kCols>
__global__ void __launch_bounds__(kNormedInputThreads)
    normed_multirow_input_kernel(MultirowInput<T, kCols> input, int width, InputNorm norm) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  const int cols = row < input.rows ? input.cols : 0;
  const int64_t from = static_cast<int64_t>(row) * input.cols;
  constexpr int kStep = kNormedInputThreads * kRoundedAtOnce;
  const int first = static_cast<int>(threadIdx.x) * kRoundedAtOnce;
  const auto weight_at = [&](int col) {
    return norm.weight && col < cols ? load_words_of(norm.weight_dtype, norm.weight, col)
                                     : LoadedWords{};
  };
  // What is used first is kept; of later columns the total is read again.
  LoadedWords held = {};
  const LoadedWords held_weight = weight_at(first);
  float squares = 0.0f;
#pragma unroll 1
  for (int col = first; col < cols; col += kStep) {
    LoadedWords total = load_words_of(input.dtype, input.x, from + col);
    float values[kRoundedAtOnce];
    values_of(input.dtype, total, values);
    if (norm.residual) {
      total = add_words(input.dtype, load_words_of(input.dtype, norm.residual, from + col), values);
    }
    squares = add_squares(squares, values);
    store_words_of(input.dtype, norm.total, from + col, total);
    if (col == first) held = total;
  }
  const float mean = block_sum<kNormedInputThreads>(squares) / static_cast<float>(input.cols);
  const float factor = cols > 0 ? rsqrtf(mean + norm.eps) : 0.0f;
  // Whole waves go round, for the shuffles.
#pragma unroll 1
  for (int start = 0; start < width; start += kStep) {
    const int col = start + first;
    LoadedWords total = held, weight = held_weight;
    if (start > 0) {
      total = col < cols ? load_words_of(input.dtype, norm.total, from + col) : LoadedWords{};
      weight = weight_at(col);
    }
    float values[kRoundedAtOnce], weights[kRoundedAtOnce];
    values_of(input.dtype, total, values);
    values_of(norm.weight_dtype, weight, weights);
    if (norm.weight) {
#pragma unroll
      for (int i = 0; i < kRoundedAtOnce; ++i) values[i] *= weights[i];
    }
    Rounding<T> rounded(values);
    rounded.multiply(factor);
    if (col < width) input.store(row, col, rounded);
  }
}

template <class T, int kCols>
void launch_multirow_input(const MultirowInput<T, kCols>& input, int width, const InputNorm* norm,
                           Stream stream) {
  if (norm) {
    return launch_early(normed_multirow_input_kernel<T, kCols>, dim3(kCols),
                        dim3(kNormedInputThreads), 0, static_cast<gpuStream_t>(stream), input,
                        width, *norm);
  }
  constexpr int kColsOfBlock = kMultirowInputThreads * kRoundedAtOnce;
  const dim3 grid(static_cast<unsigned>((width + kColsOfBlock - 1) / kColsOfBlock), kCols);
  launch_early(multirow_input_kernel<T, kCols>, grid, dim3(kMultirowInputThreads), 0,
               static_cast<gpuStream_t>(stream), input, width);
}

}  // namespace rocmforge::gpu
