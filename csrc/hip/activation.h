#pragma once

#include "hip/launch.h"
#include "hip/rows.h"

namespace rocmforge::gpu {

// Of gated layers. kGelu is the tanh form.
enum class Activation : int { kSilu, kGelu };

// out[r] = silu(gate[r]) * up[r] for r < rows, of `width` elements; out is contiguous.
Status silu_mul(DType dtype, const void* gate, const RowLayout* gate_rows, const void* up,
                const RowLayout* up_rows, void* out, int64_t rows, int64_t width, Stream stream);

// The same with the tanh form of GELU.
Status gelu_mul(DType dtype, const void* gate, const RowLayout* gate_rows, const void* up,
                const RowLayout* up_rows, void* out, int64_t rows, int64_t width, Stream stream);

}  // namespace rocmforge::gpu
