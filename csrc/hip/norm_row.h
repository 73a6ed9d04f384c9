// The steps of a root-mean-square norm of one row, for every kernel that has one on its way: the
// same rounding everywhere, so that a fused kernel has the bits of those that it stands for.
#pragma once

#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/reduce.h"

namespace rocmforge::gpu {

// Threads of a row that needs few, and the most chunks of a row that a thread keeps in registers.
constexpr int kShortRow = 32;
constexpr int kHeldChunks = 4;

template <typename T, int kCount>
__device__ __forceinline__ void add_squares(const T (&values)[kCount], float& sum) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) sum = fmaf(to_float(values[j]), to_float(values[j]), sum);
}

// What a row is multiplied by; kLanes threads, each with its part of the sum of squares.
template <int kLanes>
__device__ __forceinline__ float norm_factor(float squares, int width, float eps) {
  return rsqrtf(lanes_sum<kLanes>(squares) / static_cast<float>(width) + eps);
}

// One element of the result, rounded as its dtype holds it.
template <typename T>
__device__ __forceinline__ T normed(T value, float factor) {
  return from_float<T>(mul_rn(to_float(value), factor));
}
template <typename T>
__device__ __forceinline__ T normed(T value, float factor, float weight) {
  return from_float<T>(mul_rn(mul_rn(to_float(value), factor), weight));
}

}  // namespace rocmforge::gpu
