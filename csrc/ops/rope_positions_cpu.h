#pragma once

#include <algorithm>
#include <vector>

#include "ops/tensor_utils_cpu.h"

namespace rocmforge {

inline std::vector<int64_t> as_int64(const Tensor& positions) {
  const Tensor flat = as_contiguous(positions);
  std::vector<int64_t> values(flat.numel());
  if (flat.scalar_type() == ScalarType::Int) {
    std::copy_n(static_cast<const int32_t*>(flat.const_data_ptr()), values.size(), values.data());
  } else {
    std::copy_n(static_cast<const int64_t*>(flat.const_data_ptr()), values.size(), values.data());
  }
  return values;
}

}  // namespace rocmforge
