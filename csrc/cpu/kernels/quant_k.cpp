#include "cpu/kernels/quant_tables.h"
#include "cpu/kernels/quant_type.h"
#include "cpu/quants/k_quants.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

const QuantTypeKernels kKQuantTypes[5] = {
    type_kernels<Q2_K>("Q2_K"), type_kernels<Q3_K>("Q3_K"), type_kernels<Q4_K>("Q4_K"),
    type_kernels<Q5_K>("Q5_K"), type_kernels<Q6_K>("Q6_K"),
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
