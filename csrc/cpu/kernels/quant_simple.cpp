#include "cpu/kernels/quant_tables.h"
#include "cpu/kernels/quant_type.h"
#include "cpu/quants/simple.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

const QuantTypeKernels kSimpleTypes[8] = {
    type_kernels<Q4_0>("Q4_0"), type_kernels<Q4_1>("Q4_1"), type_kernels<Q5_0>("Q5_0"),
    type_kernels<Q5_1>("Q5_1"), type_kernels<Q8_0>("Q8_0"), type_kernels<Q8_1>("Q8_1"),
    type_kernels<Q8_K>("Q8_K"), type_kernels<Q1_0>("Q1_0"),
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
