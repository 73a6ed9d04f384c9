// One type of every family as matvec, multirow and tile kernels: what a test run compiles for the
// architectures that it does not compile everything for.
#include "hip/matvec_kernel.h"
#include "hip/multirow_launch.h"
#include "hip/tile_family.h"

namespace rocmforge::gpu {

using Representative = TypeList<Q4_0, Q4_K, IQ2_S, MXFP4>;

Status matvec_representative(const MatvecCall& call, bool gated, Activation act,
                             const InputNorm* norm) {
  return matvec_of<Representative>(call, gated, act, norm);
}

Status multirow_representative(const MultirowCall& call, bool gated, Activation act,
                               const InputNorm* norm) {
  return multirow_of<Representative>(call, gated, act, norm);
}

Status tile_representative(const TileCall& call) { return tile_of<Representative>(call); }

Status tile_slots_representative(const TileInputCall& call, const InputNorm* norm) {
  return tile_slots_of<Representative>(call, norm);
}

}  // namespace rocmforge::gpu
