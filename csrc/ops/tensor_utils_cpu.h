// Small helpers of the CPU registrations.
#pragma once

#include <algorithm>

#include "cpu/kernels/dtype.h"
#include "cpu/kernels/glue.h"
#include "ops/checks.h"

namespace rocmforge {

inline cpu::DType cpu_dtype(const Tensor& t) {
  switch (t.scalar_type()) {
    case ScalarType::Half:
      return cpu::DType::kFloat16;
    case ScalarType::BFloat16:
      return cpu::DType::kBFloat16;
    default:
      return cpu::DType::kFloat32;
  }
}

// As torch::stable::contiguous, without the way through the dispatcher where nothing is to do.
inline Tensor as_contiguous(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

// An uninitialized contiguous CPU tensor; unlike new_empty it does not go through the dispatcher.
inline Tensor empty(torch::headeronly::IntHeaderOnlyArrayRef sizes, ScalarType dtype) {
  constexpr size_t kMaxDims = 64;
  int64_t strides[kMaxDims];
  STD_TORCH_CHECK(sizes.size() <= kMaxDims, "tensors have at most 64 dimensions");
  int64_t stride = 1;
  for (size_t i = sizes.size(); i-- > 0;) {
    strides[i] = stride;
    stride *= std::max<int64_t>(sizes[i], 1);
  }
  const int32_t type = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(
      aoti_torch_empty_strided(static_cast<int64_t>(sizes.size()), sizes.data(), strides, type,
                               aoti_torch_device_type_cpu(), -1, &handle));
  return Tensor(handle);
}

// The rows of a tensor whose leading dimensions need at most two levels of stride and whose last
// dimension is contiguous; of a contiguous copy otherwise. Holds the tensor that it points into.
struct RowView {
  Tensor tensor;
  cpu::Rows rows;
  int64_t count;
};

// With tail = 1 a row is the last dimension, with tail = 2 the last two (their strides are free).
inline RowView row_view(const Tensor& t, int64_t tail = 1) {
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
  if (!simple) return row_view(torch::stable::contiguous(t), tail);
  return {t, {t.const_data_ptr(), std::max<int64_t>(sizes[0], 1), strides[1], strides[0]}, count};
}

// A tensor with a contiguous last dimension, copied only if it has none.
inline Tensor contiguous_rows(const Tensor& t) {
  const int64_t last = t.dim() - 1;
  return t.size(last) <= 1 || t.stride(last) == 1 ? t : torch::stable::contiguous(t);
}

// Calls f(begin, end) on ranges of `count` items, each of which takes about `work` operations: on
// one thread unless there is enough to share.
template <typename F>
void parallel(int64_t count, int64_t work, const F& f) {
  constexpr int64_t kWorthAThread = 1 << 15;
  const int64_t grain = std::max<int64_t>(1, kWorthAThread / std::max<int64_t>(work, 1));
  torch::stable::parallel_for(0, count, grain, f);
}

}  // namespace rocmforge
