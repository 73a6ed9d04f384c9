// Values to GGML blocks, in gguf-py's bits.
#pragma once

#include "hip/launch.h"
#include "hip/rows.h"

namespace rocmforge::gpu {

// GGML's name of a type that `quantize` knows, elements and bytes of its block; null and 0 for any
// other type.
struct QuantizedBlock {
  const char* name;
  int values, bytes;
};
QuantizedBlock quantized_block(int qtype);

// `rows` rows of `width` elements, whole blocks, to contiguous blocks.
Status quantize(int qtype, DType dtype, const void* x, const RowLayout* x_rows, int64_t rows,
                int64_t width, void* out, Stream stream);

}  // namespace rocmforge::gpu
