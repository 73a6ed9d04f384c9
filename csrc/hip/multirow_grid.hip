#include "hip/multirow_launch.h"

namespace rocmforge::gpu {

Status multirow_grid(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm) {
  return multirow_of<GridQuants>(call, gated, act, norm);
}

}  // namespace rocmforge::gpu
