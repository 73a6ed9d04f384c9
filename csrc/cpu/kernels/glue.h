// Kernels of the unquantized ops: norms, rope, gated activations, cache writes, attention, sampling.
#pragma once

#include <cstdint>

#include "cpu/kernels/dtype.h"

namespace rocmforge::cpu {

struct GlueKernels {
  // Rows [begin, end) of out = x / sqrt(mean(x^2) + eps) * weight. Rows of x are `stride` elements
  // apart, out is contiguous, weight is float32 [width] or null.
  void (*rms_norm)(DType dtype, const void* x, int64_t stride, const float* weight, float eps,
                   void* out, int64_t width, int64_t begin, int64_t end);
};

}  // namespace rocmforge::cpu
