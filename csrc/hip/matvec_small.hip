#include "hip/matvec_family.h"
#include "hip/matvec_kernel.h"

namespace rocmforge::gpu {

Status matvec_small(const MatvecCall& call, bool gated, Activation act) {
  return matvec_of<SmallQuants>(call, gated, act);
}

}  // namespace rocmforge::gpu
