// Chooses, once, the best instruction set that this processor and this build have.
#pragma once

#include "cpu/kernels/kernels.h"

namespace rocmforge::cpu {

// The kernels of the chosen instruction set. ROCMFORGE_CPU_ISA=portable|avx2|avx512 overrides.
const GlueKernels& glue_kernels();
const QuantKernels& quant_kernels();

// Its name.
const char* instruction_set();

}  // namespace rocmforge::cpu
