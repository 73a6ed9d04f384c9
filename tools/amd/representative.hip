// One type of every family as matvec kernels: what a test run compiles for the architectures that
// it does not compile everything for.
#include "hip/matvec_kernel.h"

namespace rocmforge::gpu {

Status matvec_representative(const MatvecCall& call, bool gated, Activation act) {
  return matvec_of<TypeList<Q4_0, Q4_K, IQ2_S, MXFP4>>(call, gated, act);
}

}  // namespace rocmforge::gpu
