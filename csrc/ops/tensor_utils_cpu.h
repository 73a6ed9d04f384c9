// Small helpers of the CPU registrations.
#pragma once

#include "cpu/kernels/dtype.h"
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

}  // namespace rocmforge
