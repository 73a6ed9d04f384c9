#include "hip/matvec_family.h"
#include "hip/matvec_kernel.h"

namespace rocmforge::gpu {

Status matvec_grid(const MatvecCall& call, bool gated, Activation act) {
  return matvec_of<GridQuants>(call, gated, act);
}

}  // namespace rocmforge::gpu
