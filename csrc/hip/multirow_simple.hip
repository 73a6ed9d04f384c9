#include "hip/multirow_launch.h"

namespace rocmforge::gpu {

Status multirow_simple(const MultirowCall& call, bool gated, Activation act,
                       const InputNorm* norm) {
  return multirow_of<SimpleQuants>(call, gated, act, norm);
}

}  // namespace rocmforge::gpu
