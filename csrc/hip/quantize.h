// Values to GGML blocks, in gguf-py's bits.
#pragma once

#include "hip/launch.h"
#include "hip/rows.h"

namespace rocmforge::gpu {

// Whether `quantize` knows a type, by GGML's number. Blocks hold 32 values.
bool has_quantizer(int qtype);

// `rows` rows of `width` elements, whole blocks, to contiguous blocks.
Status quantize(int qtype, DType dtype, const void* x, const RowLayout* x_rows, int64_t rows,
                int64_t width, void* out, Stream stream);

// Whether what is launched on a stream becomes part of a graph.
bool is_captured(Stream stream);

}  // namespace rocmforge::gpu
