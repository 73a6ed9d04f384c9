// Rows of a tensor as GPU launchers take them.
#pragma once

#include "hip/rows.h"
#include "ops/row_view.h"

namespace rocmforge {

// Holds the tensor that it points into; made under the device guard, as it may copy.
struct GpuRows {
  Tensor tensor;
  gpu::RowLayout layout;
  int64_t count;

  explicit GpuRows(const Tensor& t, int64_t tail = 1) : GpuRows(strided_rows(t, tail)) {}

  const void* data() const { return tensor.const_data_ptr(); }

 private:
  explicit GpuRows(const StridedRows& rows)
      : tensor(rows.tensor),
        layout{rows.inner, rows.outer_stride, rows.inner_stride},
        count(rows.count) {}
};

}  // namespace rocmforge
