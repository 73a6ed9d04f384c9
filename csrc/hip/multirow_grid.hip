#include "hip/multirow_kernel.h"

namespace rocmforge::gpu {

Status multirow_grid(const MultirowCall& call, bool gated, Activation act) {
  return multirow_of<GridQuants>(call, gated, act);
}

}  // namespace rocmforge::gpu
