#pragma once

#include "hip/activations.h"
#include "hip/matrix.h"

namespace rocmforge::gpu {

constexpr int kMaxMatvecRows = 8;

// out[m, n] = x[m] . w[n] + bias[n] for m < rows <= kMaxMatvecRows, by integer dot products with x
// rounded to 8 bits. out [rows, w.rows] is contiguous, of `dtype`; bias [w.rows] is float32 or null.
Status matvec(const QuantMatrix& w, const QuantActivations& x, int64_t rows, const float* bias,
              DType dtype, void* out, Stream stream);

}  // namespace rocmforge::gpu
