#include "hip/matvec_kernel.h"

namespace rocmforge::gpu {

Status matvec_small(const MatvecCall& call) { return matvec_of<SmallQuants>(call); }

}  // namespace rocmforge::gpu
