#include "hip/matvec_kernel.h"

namespace rocmforge::gpu {

Status matvec_k(const MatvecCall& call) { return matvec_of<KQuants>(call); }

}  // namespace rocmforge::gpu
