// Turns a run-time DType into a template argument and a launch into a Status.
#pragma once

#include "hip/compat.h"
#include "hip/launch.h"

namespace rocmforge::gpu {

// Calls body(T{}) with the storage type of `dtype`.
template <typename Body>
void with_dtype(DType dtype, Body body) {
  switch (dtype) {
    case DType::kFloat32:
      return body(float{});
    case DType::kFloat16:
      return body(__half{});
    case DType::kBFloat16:
      return body(gpu_bfloat16{});
  }
}

inline Status launch_status() {
  const gpuError_t error = gpuGetLastError();
  return error == gpuSuccess ? nullptr : gpuGetErrorString(error);
}

}  // namespace rocmforge::gpu
