// The CPU kernels that depend on the instruction set, as tables of functions.
//
// Every .cpp in this folder is compiled once per instruction set, with ROCMFORGE_ISA naming the
// namespace that it fills (portable, avx2, avx512). Nothing with external linkage outside that
// namespace, and no inline function of the standard library that the linker could merge between
// instruction sets, may be used here: the merged copy could hold instructions the processor lacks.
#pragma once

#include "cpu/kernels/glue.h"
#include "cpu/kernels/quant.h"

#define ROCMFORGE_DECLARE_KERNELS(isa) \
  namespace isa {                      \
  extern const GlueKernels kGlue;      \
  extern const QuantKernels kQuant;    \
  }

namespace rocmforge::cpu {

ROCMFORGE_DECLARE_KERNELS(portable)
ROCMFORGE_DECLARE_KERNELS(avx2)
ROCMFORGE_DECLARE_KERNELS(avx512)

}  // namespace rocmforge::cpu

#undef ROCMFORGE_DECLARE_KERNELS
