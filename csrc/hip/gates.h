// The functions of gated layers, in float.
#pragma once

#include "hip/activation.h"
#include "hip/compat.h"

namespace rocmforge::gpu {

struct Silu {
  static __device__ __forceinline__ float of(float x) { return x / (1.0f + expf(-x)); }
};

// 0.5 * x * (1 + tanh(u)) = x * sigmoid(2u), which does not cancel.
struct Gelu {
  static __device__ __forceinline__ float of(float x) {
    constexpr float kTwiceSqrt2OverPi = 1.5957691216057308f;
    return x / (1.0f + expf(-kTwiceSqrt2OverPi * (x + 0.044715f * x * x * x)));
  }
};

__device__ __forceinline__ float activate(Activation act, float x) {
  return act == Activation::kSilu ? Silu::of(x) : Gelu::of(x);
}

}  // namespace rocmforge::gpu
