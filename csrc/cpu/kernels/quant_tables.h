// The types of each family; each table is compiled in its own file.
#pragma once

#include "cpu/kernels/quant.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

extern const QuantTypeKernels kPlainTypes[3];
extern const QuantTypeKernels kSimpleTypes[8];
extern const QuantTypeKernels kKQuantTypes[5];
extern const QuantTypeKernels kIQuantTypes[9];
extern const QuantTypeKernels kSmallFloatTypes[4];

void to_float(DType dtype, const void* in, float* out, int64_t count);
void from_float(DType dtype, const float* in, void* out, int64_t count);

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
