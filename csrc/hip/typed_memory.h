// Loads and stores whose type is known only at run time: a branch of the last instructions instead
// of a kernel for every type.
#pragma once

#include "hip/convert.h"
#include "hip/launch.h"

namespace rocmforge::gpu {

__device__ __forceinline__ float load_as(DType dtype, const void* data, int64_t at) {
  switch (dtype) {
    case DType::kFloat16:
      return to_float(static_cast<const __half*>(data)[at]);
    case DType::kBFloat16:
      return to_float(static_cast<const gpu_bfloat16*>(data)[at]);
    default:
      return static_cast<const float*>(data)[at];
  }
}

__device__ __forceinline__ void store_as(DType dtype, void* out, int64_t at, float value) {
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(out)[at] = value;
      return;
    case DType::kFloat16:
      static_cast<__half*>(out)[at] = from_float<__half>(value);
      return;
    case DType::kBFloat16:
      static_cast<gpu_bfloat16*>(out)[at] = from_float<gpu_bfloat16>(value);
      return;
  }
}

}  // namespace rocmforge::gpu
