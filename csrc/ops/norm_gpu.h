#pragma once

#include "ops/control.h"
#include "ops/gpu.h"
#include "ops/row_view.h"

namespace rocmforge {

// The weight of a norm as the kernels take it; holds the tensor that it points into.
struct NormWeight {
  std::optional<Tensor> tensor;
  gpu::DType dtype = gpu::DType::kFloat32;
  const void* data = nullptr;
  bool at_rest = false;  // see inputs_at_rest()

  explicit NormWeight(const std::optional<Tensor>& weight) {
    if (!weight) return;
    tensor = aligned_contiguous(*weight);
    dtype = gpu_dtype(*tensor);
    data = tensor->const_data_ptr();
    at_rest = data == weight->const_data_ptr() && inputs_at_rest();
  }
};

}  // namespace rocmforge
