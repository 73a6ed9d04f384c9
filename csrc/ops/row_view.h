// How kernels walk a tensor by rows.
#pragma once

#include <algorithm>

#include "ops/checks.h"

namespace rocmforge {

// A tensor with a contiguous last dimension, copied only if it has none.
inline Tensor contiguous_rows(const Tensor& t) {
  const int64_t last = t.dim() - 1;
  return t.size(last) <= 1 || t.stride(last) == 1 ? t : torch::stable::contiguous(t);
}

// t, or a copy of it, contiguous and where whole 16 bytes can be read at once.
inline Tensor aligned_contiguous(const Tensor& t) {
  const Tensor dense = torch::stable::contiguous(t);
  const bool aligned = reinterpret_cast<uintptr_t>(dense.const_data_ptr()) % 16 == 0;
  return aligned ? dense : torch::stable::clone(dense);
}

// Row i of `tensor` stands at (i / inner) * outer_stride + (i % inner) * inner_stride, in elements.
// Holds the tensor that its owner points into.
struct StridedRows {
  Tensor tensor;
  int64_t inner, outer_stride, inner_stride;
  int64_t count;
};

// The rows of a tensor whose leading dimensions need at most two levels of stride and whose last
// dimension is contiguous; of a contiguous copy otherwise.
// With tail = 1 a row is the last dimension, with tail = 2 the last two (the stride of the first
// of them is free).
inline StridedRows strided_rows(const Tensor& t, int64_t tail = 1) {
  const int64_t dims = t.dim();
  int64_t count = 1, levels = 0;
  int64_t sizes[2] = {1, 1}, strides[2] = {0, 0};
  bool simple = t.size(dims - 1) <= 1 || t.stride(dims - 1) == 1;
  for (int64_t i = dims - tail - 1; i >= 0; --i) {
    const int64_t size = t.size(i), stride = t.stride(i);
    count *= size;
    if (size == 1) continue;
    if (levels > 0 && stride == sizes[levels - 1] * strides[levels - 1]) {
      sizes[levels - 1] *= size;
    } else if (levels < 2) {
      sizes[levels] = size;
      strides[levels++] = stride;
    } else {
      simple = false;
    }
  }
  if (!simple) return strided_rows(torch::stable::contiguous(t), tail);
  return {t, std::max<int64_t>(sizes[0], 1), strides[1], strides[0], count};
}

}  // namespace rocmforge
