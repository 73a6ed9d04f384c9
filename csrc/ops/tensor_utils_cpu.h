// Small helpers of the CPU registrations.
#pragma once

#include <algorithm>

#include "cpu/kernels/dtype.h"
#include "cpu/kernels/glue.h"
#include "ops/checks.h"
#include "ops/row_view.h"

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

// strided_rows as the kernels take them.
struct RowView {
  Tensor tensor;
  cpu::Rows rows;
  int64_t count;
};

inline RowView row_view(const Tensor& t, int64_t tail = 1) {
  const StridedRows r = strided_rows(t, tail);
  return {r.tensor, {r.tensor.const_data_ptr(), r.inner, r.outer_stride, r.inner_stride}, r.count};
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
