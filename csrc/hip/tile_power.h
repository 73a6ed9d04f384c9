// The power of two that brings a row of activations into the range of float16.
#pragma once

#include "hip/compat.h"

namespace rocmforge::gpu {

// As integers magnitudes are ordered, with infinity and NaN above all numbers.
__device__ __forceinline__ uint32_t larger_magnitude(uint32_t largest, float value) {
  const uint32_t bits = __float_as_uint(fabsf(value));
  return bits > largest ? bits : largest;
}

// Multiplied by `to` the row's largest magnitude is between 2^14 and 2^15; `back` undoes it.
struct RowPower {
  float to, back;
};

// For every thread of a block, from the largest magnitudes that each has seen.
template <int kThreads>
__device__ __forceinline__ RowPower row_power(uint32_t largest) {
  constexpr int kWaves = kThreads / kWaveSize;
  __shared__ uint32_t partial[kWaves];
#pragma unroll
  for (int mask = kWaveSize / 2; mask > 0; mask /= 2) {
    const uint32_t other = wave_shuffle_xor(largest, mask);
    largest = other > largest ? other : largest;
  }
  if (threadIdx.x % kWaveSize == 0) partial[threadIdx.x / kWaveSize] = largest;
  __syncthreads();
#pragma unroll
  for (int wave = 0; wave < kWaves; ++wave) {
    largest = partial[wave] > largest ? partial[wave] : largest;
  }
  const uint32_t exponent = largest >> 23;
  const uint32_t up = exponent < 15 ? 15 : exponent;  // so that both powers are normal
  return {__uint_as_float((127 + 127 + 14 - up) << 23), __uint_as_float((up - 14) << 23)};
}

}  // namespace rocmforge::gpu
