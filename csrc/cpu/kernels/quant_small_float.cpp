#include "cpu/kernels/quant_tables.h"
#include "cpu/kernels/quant_type.h"
#include "cpu/quants/float4.h"
#include "cpu/quants/ternary.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

const QuantTypeKernels kSmallFloatTypes[4] = {
    type_kernels<MXFP4>("MXFP4"),
    type_kernels<NVFP4>("NVFP4"),
    type_kernels<TQ1_0>("TQ1_0"),
    type_kernels<TQ2_0>("TQ2_0"),
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
