#include "hip/multirow_kernel.h"

namespace rocmforge::gpu {

Status multirow_k(const MultirowCall& call, bool gated, Activation act) {
  return multirow_of<KQuants>(call, gated, act);
}

}  // namespace rocmforge::gpu
