#include "hip/matvec_family.h"
#include "hip/matvec_kernel.h"

namespace rocmforge::gpu {

Status matvec_small(const MatvecCall& call, bool gated, Activation act, const InputNorm* norm) {
  return matvec_of<SmallQuants>(call, gated, act, norm);
}

}  // namespace rocmforge::gpu
