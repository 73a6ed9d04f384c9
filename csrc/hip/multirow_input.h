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
  bool weights_at_rest;  // the product may load them while the kernel ahead of this one runs
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
  if (input.weights_at_rest) let_next_begin();
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

// The same of rows that are normed. What the norm multiplies a row by, the product can be
// multiplied by as well: here only squares are summed up, those of every block apart,
// [row][blockIdx.x].
template <class T, int kCols>
__global__ void __launch_bounds__(kMultirowInputThreads)
    normed_multirow_input_kernel(MultirowInput<T, kCols> input, int width, InputNorm norm,
                                 float* squares) {
  if (input.weights_at_rest) let_next_begin();
  const int row = static_cast<int>(blockIdx.y);
  const int at = static_cast<int>(blockIdx.x * kMultirowInputThreads + threadIdx.x);
  const int col = at * kRoundedAtOnce;
  const bool inside = row < input.rows && col < input.cols;
  const int64_t from = static_cast<int64_t>(row) * input.cols + col;
  const auto load_weight = [&] {
    return norm.weight && inside ? load_words_of(norm.weight_dtype, norm.weight, col)
                                 : LoadedWords{};
  };
  // A weight that waits for nobody is not behind what the next kernel asks memory for.
  const bool begun = kStartsEarly && norm.weight_at_rest;
  LoadedWords weight = {}, total = {};
  if (begun) weight = load_weight();
  follow_previous();
  if (!begun) weight = load_weight();
  float values[kRoundedAtOnce] = {};
  if (inside) {
    total = load_words_of(input.dtype, input.x, from);
    LoadedWords residual = {};
    if (norm.residual) residual = load_words_of(input.dtype, norm.residual, from);
    values_of(input.dtype, total, values);
    if (norm.residual) total = add_words(input.dtype, residual, values);
    store_words_of(input.dtype, norm.total, from, total);
  }
  const float sum = block_sum<kMultirowInputThreads>(add_squares(0.0f, values));
  if (threadIdx.x == 0) squares[row * static_cast<int>(gridDim.x) + blockIdx.x] = sum;
  if (norm.weight) {
    float weights[kRoundedAtOnce];
    values_of(norm.weight_dtype, weight, weights);
#pragma unroll
    for (int i = 0; i < kRoundedAtOnce; ++i) values[i] *= weights[i];
  }
  const Rounding<T> rounded(values);
  if (col < width) input.store(row, col, rounded);
}

// Blocks to a row.
inline int multirow_input_parts(int width) {
  constexpr int kColsOfBlock = kMultirowInputThreads * kRoundedAtOnce;
  return (width + kColsOfBlock - 1) / kColsOfBlock;
}

// squares [kCols, multirow_input_parts(width)]: with a norm, of the rows' totals.
template <class T, int kCols>
void launch_multirow_input(const MultirowInput<T, kCols>& input, int width, const InputNorm* norm,
                           float* squares, Stream stream) {
  const dim3 grid(static_cast<unsigned>(multirow_input_parts(width)), kCols);
  const auto launch = [&](auto kernel, const auto&... more) {
    launch_early(kernel, grid, dim3(kMultirowInputThreads), 0, static_cast<gpuStream_t>(stream),
                 input, width, more...);
  };
  norm ? launch(normed_multirow_input_kernel<T, kCols>, *norm, squares)
       : launch(multirow_input_kernel<T, kCols>);
}

}  // namespace rocmforge::gpu
