#include "cpu/kernels/quant_tables.h"
#include "cpu/kernels/quant_type.h"
#include "cpu/quants/i_quants.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

const QuantTypeKernels kIQuantTypes[9] = {
    type_kernels<IQ1_S>("IQ1_S"),     type_kernels<IQ1_M>("IQ1_M"),
    type_kernels<IQ2_XXS>("IQ2_XXS"), type_kernels<IQ2_XS>("IQ2_XS"),
    type_kernels<IQ2_S>("IQ2_S"),     type_kernels<IQ3_XXS>("IQ3_XXS"),
    type_kernels<IQ3_S>("IQ3_S"),     type_kernels<IQ4_NL>("IQ4_NL"),
    type_kernels<IQ4_XS>("IQ4_XS"),
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
