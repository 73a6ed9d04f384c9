// The norm that rows of activations go through on their way into a product.
#pragma once

#include "hip/launch.h"

namespace rocmforge::gpu {

// What is multiplied is total * weight / sqrt(mean of total^2 + eps), total = x + residual as the
// dtype of x holds it, without another rounding.
struct InputNorm {
  const void* residual;  // [rows, cols], contiguous, 16-byte aligned, or null
  const void* weight;    // [cols], 16-byte aligned, or null
  DType weight_dtype;
  float eps;
  void* total;          // [rows, cols], 16-byte aligned; written
  bool weight_at_rest;  // whether no kernel that may still run writes to it
};

}  // namespace rocmforge::gpu
