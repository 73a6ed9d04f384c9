#include "hip/multirow_launch.h"

namespace rocmforge::gpu {

Status multirow_small(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm) {
  return multirow_of<SmallQuants>(call, gated, act, norm);
}

}  // namespace rocmforge::gpu
