// Choices of bytes by selectors that are known to be valid, where compat.h's functions have to
// allow for others.
#pragma once

#include "hip/compat.h"

namespace rocmforge::gpu {

#if defined(__HIP__)

// Four bytes of the eight of low and high; no selector has more than its three bits.
__device__ __forceinline__ uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t selectors) {
  return __builtin_amdgcn_perm(high, low, selectors);
}

// Eight bytes by one word of selectors below 8, as select_8_bytes.
__device__ __forceinline__ void pick_8_bytes(uint32_t low, uint32_t high, uint32_t selectors,
                                             uint32_t (&bytes)[2]) {
  select_8_bytes(low, high, selectors, bytes);
}

#else

// Bit 3 of a selector would ask for the sign of its byte; __byte_perm clears it.
__device__ __forceinline__ uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t selectors) {
  uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selectors));
  return bytes;
}

__device__ __forceinline__ void pick_8_bytes(uint32_t low, uint32_t high, uint32_t selectors,
                                             uint32_t (&bytes)[2]) {
  bytes[0] = pick_bytes(low, high, selectors);
  bytes[1] = pick_bytes(low, high, selectors >> 16);
}

#endif

}  // namespace rocmforge::gpu
