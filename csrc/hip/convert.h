// Conversions between storage types and float.
#pragma once

#include <type_traits>

#include "hip/compat.h"

namespace rocmforge::gpu {

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(__half x) { return __half2float(x); }
__device__ __forceinline__ float to_float(gpu_bfloat16 x) { return __bfloat162float(x); }

template <typename T>
__device__ __forceinline__ T from_float(float x);
template <>
__device__ __forceinline__ float from_float<float>(float x) {
  return x;
}
template <>
__device__ __forceinline__ __half from_float<__half>(float x) {
  return __float2half(x);
}
template <>
__device__ __forceinline__ gpu_bfloat16 from_float<gpu_bfloat16>(float x) {
  return __float2bfloat16(x);
}

// Two numbers of 16 bits, each rounded once, the first in the low half.
template <typename T>
__device__ __forceinline__ uint32_t pack_pair(float low, float high) {
  if constexpr (std::is_same_v<T, __half>) {
    const __half2 pair = __floats2half2_rn(low, high);
    return *reinterpret_cast<const uint32_t*>(&pair);
  } else {
    return bfloat16_pair(low, high);
  }
}

}  // namespace rocmforge::gpu
