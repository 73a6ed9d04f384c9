#pragma once

#include "cpu/kernels/quant.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

void quantize_tile(const float* x, int64_t stride, int tile, const QuantTypeKernels& type,
                   int64_t begin, const QuantizedRows& out);

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
