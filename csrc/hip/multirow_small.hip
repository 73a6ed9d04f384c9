#include "hip/multirow_kernel.h"

namespace rocmforge::gpu {

Status multirow_small(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm) {
  return multirow_of<SmallQuants>(call, gated, act, norm);
}

}  // namespace rocmforge::gpu
