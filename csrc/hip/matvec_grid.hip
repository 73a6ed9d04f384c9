#include "hip/matvec_kernel.h"

namespace rocmforge::gpu {

Status matvec_grid(const MatvecCall& call) { return matvec_of<GridQuants>(call); }

}  // namespace rocmforge::gpu
