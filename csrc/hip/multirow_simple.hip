#include "hip/multirow_kernel.h"

namespace rocmforge::gpu {

Status multirow_simple(const MultirowCall& call, bool gated, Activation act) {
  return multirow_of<SimpleQuants>(call, gated, act);
}

}  // namespace rocmforge::gpu
