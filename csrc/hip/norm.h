#pragma once

#include "hip/launch.h"
#include "hip/rows.h"

namespace rocmforge::gpu {

// out[r] = x[r] / sqrt(mean(x[r]^2) + eps) * weight for r < rows.
// x has rows of `width` elements placed by x_rows; out [rows, width] is contiguous and of x's
// dtype; weight [width] is contiguous, of `weight_dtype` (float32 or x's), or null. float32
// accumulation.
Status rms_norm(DType dtype, const void* x, const RowLayout* x_rows, DType weight_dtype,
                const void* weight, float eps, void* out, int64_t rows, int64_t width,
                Stream stream);

// The same of sum[r] = x[r] + residual[r], rounded to x's dtype; sum [rows, width] is contiguous.
// With x_weight, of weight_dtype too, rms_norm(x[r]) by it takes the place of x[r].
Status add_rms_norm(DType dtype, const void* x, const RowLayout* x_rows, const void* residual,
                    const RowLayout* residual_rows, DType weight_dtype, const void* weight,
                    const void* x_weight, float eps, void* out, void* sum, int64_t rows,
                    int64_t width, Stream stream);

}  // namespace rocmforge::gpu
