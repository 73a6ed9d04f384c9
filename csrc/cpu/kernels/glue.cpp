#include "cpu/kernels/glue_functions.h"
#include "cpu/kernels/kernels.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

const GlueKernels kGlue = {
    rms_norm,  rope,           gated,   accumulate,      convert,       attention_scratch,
    attention, attention_join, maximum, softmax_weights, gumbel_argmax,
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
