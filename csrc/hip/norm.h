#pragma once

#include "hip/launch.h"

namespace rocmforge::gpu {

// out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight for r < rows.
// x has rows of `width` elements, `stride` elements apart, contiguous inside; out [rows, width] is
// contiguous and of x's dtype; weight [width] is contiguous, of `weight_dtype` (float32 or x's), or
// null. float32 accumulation.
Status rms_norm(DType dtype, const void* x, int64_t stride, DType weight_dtype, const void* weight,
                float eps, void* out, int64_t rows, int64_t width, Stream stream);

}  // namespace rocmforge::gpu
