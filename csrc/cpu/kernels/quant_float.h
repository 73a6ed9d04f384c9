// Products in float32: the exact path, and the product with the transposed weights.
#pragma once

#include "cpu/kernels/quant.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

void float_product(const float* w, int64_t num_rows, const float* x, int64_t m, int64_t k,
                   float* out, int64_t out_stride);
void double_product(const float* w, int64_t num_rows, const float* x, int64_t m, int64_t k,
                    float* out, int64_t out_stride);
void transposed_product(const QuantTypeKernels& type, const uint8_t* weights, int64_t stride,
                        int64_t num_rows, int64_t num_blocks, const float* g, int64_t g_stride,
                        int64_t m, float* scratch, float* out, int64_t out_stride);

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
