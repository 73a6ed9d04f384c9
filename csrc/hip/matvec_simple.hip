#include "hip/matvec_kernel.h"

namespace rocmforge::gpu {

bool matvec_simple(const MatvecCall& call) { return matvec_of<SimpleQuants>(call); }

}  // namespace rocmforge::gpu
