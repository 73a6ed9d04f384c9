// Activations rounded to 8 bits, for integer dot products.
#pragma once

#include "hip/launch.h"

namespace rocmforge::gpu {

// Rows of `cols` activations, cols a multiple of 32.
struct QuantActivations {
  int8_t* codes;  // [rows, cols], 16-byte aligned
  float* scales;  // [rows, cols / 32]
  float* sums;    // [rows, cols / 16]: scale * sum of 16 codes
};

// Bytes of a workspace for QuantActivations, which place_activations divides.
int64_t activation_bytes(int64_t rows, int64_t cols);
QuantActivations place_activations(void* workspace, int64_t rows, int64_t cols);

// code = round(x / scale), scale = max |x| / 127 over 32 neighbours; a block with an infinity or a
// NaN gets a scale that is not finite. x [rows, cols], rows `stride` elements apart; rows of out
// past the last, up to out_rows, repeat it.
Status quantize_activations(DType dtype, const void* x, int64_t stride, int64_t rows, int64_t cols,
                            int64_t out_rows, const QuantActivations& out, Stream stream);

}  // namespace rocmforge::gpu
