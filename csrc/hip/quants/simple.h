// Q4_0 to Q8_0: 32 weights, one scale (and one minimum). One step is a whole block.
#pragma once

#include "hip/quants/traits.h"

namespace rocmforge::gpu {

struct Q4_0 {
  static constexpr int kType = 2, kBlock = 32, kBytes = 18, kGroups = 2, kOffset = 8;
  static constexpr bool kMins = false;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{2, 16}, {0, 2}};
  struct Raw {
    uint32_t codes[4];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] = raw.codes[i] >> (4 * G) & 0x0f0f0f0f;
    return group;
  }
  template <int G>
  static __device__ __forceinline__ int first(int) {
    return 16 * G;
  }
};

struct Q8_0 {
  static constexpr int kType = 8, kBlock = 32, kBytes = 34, kGroups = 2, kOffset = 0;
  static constexpr bool kMins = false;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{2, 32}, {0, 2}};
  struct Raw {
    uint32_t codes[8];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] = static_cast<int>(raw.codes[4 * G + i]);
    return group;
  }
  template <int G>
  static __device__ __forceinline__ int first(int) {
    return 16 * G;
  }
};

}  // namespace rocmforge::gpu
