// Sums over a wave and over a block, in a fixed order: results do not change from run to run.
#pragma once

#include "hip/compat.h"

namespace rocmforge::gpu {

// Every one of kLanes neighbouring lanes of a wave gets their sum.
template <int kLanes = kWaveSize>
__device__ __forceinline__ float wave_sum(float value) {
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) value += wave_shuffle_xor(value, mask);
  return value;
}

// Several sums over a wave at once, with fewer shuffles: lane l gets that of values[l % kCount],
// kCount a power of two.
template <int kCount>
__device__ __forceinline__ float wave_sums(const float (&values)[kCount], int lane) {
  float left[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) left[i] = values[i];
#pragma unroll
  for (int mask = 1; mask < kCount; mask *= 2) {
    const bool odd = lane & mask;
#pragma unroll
    for (int i = 0; i < kCount / mask / 2; ++i) {
      const float other = wave_shuffle_xor(odd ? left[2 * i] : left[2 * i + 1], mask);
      left[i] = (odd ? left[2 * i + 1] : left[2 * i]) + other;
    }
  }
#pragma unroll
  for (int mask = kCount; mask < kWaveSize; mask *= 2) left[0] += wave_shuffle_xor(left[0], mask);
  return left[0];
}

// Every thread gets the sum. kThreads is the block size, a multiple of the wave size.
template <int kThreads>
__device__ __forceinline__ float block_sum(float value) {
  constexpr int kWaves = kThreads / kWaveSize;
  __shared__ float partial[kWaves];
  value = wave_sum(value);
  if constexpr (kWaves == 1) return value;
  if (threadIdx.x % kWaveSize == 0) partial[threadIdx.x / kWaveSize] = value;
  __syncthreads();
  float total = 0.0f;
#pragma unroll
  for (int wave = 0; wave < kWaves; ++wave) total += partial[wave];
  __syncthreads();
  return total;
}

// Every one of kLanes threads gets their sum: a part of a wave or the whole block.
template <int kLanes>
__device__ __forceinline__ float lanes_sum(float value) {
  if constexpr (kLanes <= 32) {
    return wave_sum<kLanes>(value);
  } else {
    return block_sum<kLanes>(value);
  }
}

}  // namespace rocmforge::gpu
