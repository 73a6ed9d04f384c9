// Products on the CPU: how the kernels are put together and cut into threads. No checks here.
#pragma once

#include "ops/quant_results_cpu.h"
#include "ops/quant_weights_cpu.h"

namespace rocmforge {

// How a product is computed: the table in docs/cpu_kernels.md. `kSmall`: in float, sums in float64.
enum class ProductKernel { kDot, kPanels, kFloat, kSmall };

// The kernel for m rows of activations, n rows of weights and k columns.
ProductKernel product_kernel(const cpu::QuantTypeKernels& type, int64_t m, int64_t n, int64_t k,
                             bool exact);

// out[m, n] = x[m, :] . weights[n, :] + bias[n], x contiguous and of out's dtype. `exact`: float
// arithmetic, else integer dot products where the type has them. Weights in layout 1 are put
// together on the way, at most 16 rows (or a panel of the kernels) for each thread.
void multiply(const BlockMatrix& weights, const void* x, bool exact, const ProductOutput& out);

// out[m, k] = sum over n of g[m, n] * weights[n, k], all contiguous and of `dtype`.
void multiply_transposed(const BlockMatrix& weights, const void* g, int64_t m, cpu::DType dtype,
                         void* out);

// Rows of the matrix as values: out[i, :] = weights[ids ? ids[i] : i, :] for i < count.
void dequantize_rows(const BlockMatrix& weights, const int64_t* ids, int64_t count,
                     cpu::DType dtype, void* out);

}  // namespace rocmforge
