// Products on the CPU: how the kernels are put together and cut into threads. No checks here.
#pragma once

#include "cpu/kernels/quant.h"

namespace rocmforge {

// A matrix of blocks: `rows` weight rows of `row_blocks` blocks, `stride` bytes apart.
struct BlockMatrix {
  const cpu::QuantTypeKernels* type;
  const uint8_t* data;
  int64_t rows;
  int64_t stride;
  int64_t row_blocks;

  int64_t width() const { return row_blocks * type->block_size; }
};

// out[m, n] = x[m, :] . weights[n, :] + bias[n], all contiguous; x and out of `dtype`, bias float32
// or null. `exact`: float arithmetic, else integer dot products where the type has them.
void multiply(const BlockMatrix& weights, const void* x, int64_t m, cpu::DType dtype,
              const float* bias, bool exact, void* out);

// out[m, k] = sum over n of g[m, n] * weights[n, k], all contiguous and of `dtype`.
void multiply_transposed(const BlockMatrix& weights, const void* g, int64_t m, cpu::DType dtype,
                         void* out);

// Rows of the matrix as values: out[i, :] = weights[ids ? ids[i] : i, :] for i < count.
void dequantize_rows(const BlockMatrix& weights, const int64_t* ids, int64_t count,
                     cpu::DType dtype, void* out);

}  // namespace rocmforge
