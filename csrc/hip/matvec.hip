#include "hip/matvec.h"

#include "hip/dispatch.h"

namespace rocmforge::gpu {

Status matvec(const MatvecCall& call) {
  if (call.rows == 0 || call.w.rows == 0) return nullptr;
  const bool launched =
      matvec_simple(call) || matvec_k(call) || matvec_grid(call) || matvec_small(call);
  return launched ? launch_status() : "no GPU kernel for this quantization type";
}

}  // namespace rocmforge::gpu
