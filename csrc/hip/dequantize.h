#pragma once

#include "hip/matrix.h"

namespace rocmforge::gpu {

// out[i] = row ids[i] of w in float, for i < count; row first + i if ids is null. out [count,
// w.cols] is contiguous, 16-byte aligned, of `dtype`. Also for the plain types F32, F16 and BF16.
// float32 values are bit-exact with gguf-py; others are rounded from them. An id outside [0,
// w.rows) gives a row of NaN, since nothing may be thrown here.
Status dequantize(const QuantMatrix& w, int64_t first, const int64_t* ids, int64_t count,
                  DType dtype, void* out, Stream stream);

// out[r, c] = product[r, c] + bias[c], [rows, cols], with a conversion. product is contiguous; rows
// of out are `stride` elements apart; bias [cols] or null.
Status finish_product(DType product_dtype, const void* product, int64_t rows, int64_t cols,
                      DType bias_dtype, const void* bias, DType dtype, void* out, int64_t stride,
                      Stream stream);

}  // namespace rocmforge::gpu
