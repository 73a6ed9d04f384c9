#include "hip/multirow_kernel.h"

namespace rocmforge::gpu {

Status multirow_simple(const MultirowCall& call, bool gated, Activation act,
                       const InputNorm* norm) {
  return multirow_of<SimpleQuants>(call, gated, act, norm);
}

}  // namespace rocmforge::gpu
