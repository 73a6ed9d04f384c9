#pragma once

#include "hip/matrix.h"

namespace rocmforge::gpu {

// out[i] = row ids[i] of w in float, for i < count; the first `count` rows if ids is null. out
// [count, w.cols] is contiguous, of `dtype`. float32 values are bit-exact with gguf-py; others are
// rounded from them. An id outside [0, w.rows) gives a row of NaN, since nothing may be thrown here.
Status dequantize(const QuantMatrix& w, const int64_t* ids, int64_t count, DType dtype, void* out,
                  Stream stream);

}  // namespace rocmforge::gpu
