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
