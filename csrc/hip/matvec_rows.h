// What a matvec multiplies: rows of x as they are, or one row that is normed on the way. A thread
// takes kRoundedAtOnce neighbours at a time.
//
//   load(cols, col)                           starts to load values from `col` on; zeros behind the
//                                             row
//   take(loaded, row, cols, col, values)      those of a row, as they are rounded to 8 bits
//   kFetched                                  loads that a thread has under way
#pragma once

#include "hip/matvec.h"
#include "hip/rounding.h"

namespace rocmforge::gpu {

template <int kRows>
struct PlainRows {
  static constexpr bool kNorms = false;
  static constexpr int kFetched = 5 - kRows;
  DType dtype;
  const void* x;

  struct Loaded {
    LoadedWords rows[kRows];
  };

  __device__ __forceinline__ Loaded load(int cols, int col) const {
    Loaded loaded = {};
    if (col >= cols) return loaded;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      loaded.rows[row] = load_words_of(dtype, x, static_cast<int64_t>(row) * cols + col);
    }
    return loaded;
  }
  __device__ __forceinline__ void take(const Loaded& loaded, int row, int, int,
                                       float (&values)[kRoundedAtOnce]) const {
    values_of(dtype, loaded.rows[row], values);
  }
};

// One row. The norm multiplies all of it by one factor, which the product can be multiplied by as
// well: nobody waits for the sum of squares before the weights are used. What is rounded is total *
// weight, in float32.
struct NormedRow {
  static constexpr bool kNorms = true;
  static constexpr int kFetched = kCopiesAhead ? 2 : 1;
  DType dtype;
  const void* x;
  const InputNorm& norm;
  bool writes_total;
  float squares;  // of what this thread has taken

  struct Loaded {
    LoadedWords x, residual, weight;
  };

  __device__ __forceinline__ Loaded load(int cols, int col) const {
    Loaded loaded = {};
    if (col >= cols) return loaded;
    loaded.x = load_words_of(dtype, x, col);
    if (norm.residual) loaded.residual = load_words_of(dtype, norm.residual, col);
    if (norm.weight) loaded.weight = load_words_of(norm.weight_dtype, norm.weight, col);
    return loaded;
  }
  __device__ __forceinline__ void take(const Loaded& loaded, int, int cols, int col,
                                       float (&values)[kRoundedAtOnce]) {
    LoadedWords total = loaded.x;
    values_of(dtype, total, values);
    if (norm.residual) total = add_words(dtype, loaded.residual, values);
    if (writes_total && col < cols) store_words_of(dtype, norm.total, col, total);
    squares = add_squares(squares, values);
    if (!norm.weight) return;
    float weights[kRoundedAtOnce];
    values_of(norm.weight_dtype, loaded.weight, weights);
#pragma unroll
    for (int i = 0; i < kRoundedAtOnce; ++i) values[i] *= weights[i];
  }
};

}  // namespace rocmforge::gpu
