#include "hip/matvec_kernel.h"

namespace rocmforge::gpu {

Status matvec_simple(const MatvecCall& call) { return matvec_of<SimpleQuants>(call); }

}  // namespace rocmforge::gpu
