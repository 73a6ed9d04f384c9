// MXFP4 and NVFP4: e2m1 values, kept doubled so that they are integers, under a halved scale.
#pragma once

#include "hip/quants/codebooks.h"
#include "hip/quants/tables.h"
#include "hip/quants/traits.h"

namespace rocmforge::gpu {

struct E2m1 : WholeBlock {
  static constexpr int kOffset = kE2m1Offset, kLevels = 4;
  static constexpr bool kMins = false;
  static constexpr __device__ __forceinline__ uint32_t level(int i) { return kE2m1.words[i]; }
};

struct MXFP4 : E2m1 {
  static constexpr int kType = 39, kBlock = 32, kBytes = 17, kGroups = 2;
  static constexpr int kHalvesApart = 16;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{1, 16}, {0, 1}};
  struct Raw {
    uint32_t codes[4];
    uint8_t e;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    raw.e = read_u8<kScale>(view, block);
    return raw;
  }
  template <int G, class Tables = KnownLevels<MXFP4>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int, const Tables& tables = {}) {
    // Half the scale is 2^(e - 128), subnormal for 0 and 1.
    const uint32_t e = raw.e;
    Group group{{}, __uint_as_float(e < 2 ? 0x00200000u << e : (e - 1) << 23), 0.0f};
    int halves[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      look_up_small_halves(tables, raw.codes[i], halves[0], halves[1]);
      group.codes[i] = halves[G];
    }
    return group;
  }
};

// Half of an unsigned e4m3 number in the lowest byte. Its bit 7 is ignored, except that 0x7f is 0.
__device__ __forceinline__ float half_ue4m3(uint32_t byte) {
  // As float32 bits the exponent is 2^120 too small, for subnormals too.
  return (byte & 255) == 127 ? 0.0f : __uint_as_float((byte & 127) << 20) * 0x1p119f;
}

// 16 weights to a scale: the first 8 in the low halves of 8 bytes.
struct NVFP4 : E2m1 {
  static constexpr int kType = 40, kBlock = 64, kBytes = 36, kGroups = 4, kSpan = 1;
  static constexpr int kHalvesApart = 8;
  enum { kCodes, kScales };
  static constexpr Field kFields[] = {{4, 32}, {0, 4}};
  struct Raw {
    uint32_t codes[8];
    uint32_t scales[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    read_words<kScales>(view, block, 0, raw.scales);
    return raw;
  }
  template <int G, class Tables = KnownLevels<NVFP4>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int, const Tables& tables = {}) {
    Group group{{}, half_ue4m3(raw.scales[0] >> (8 * G)), 0.0f};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      look_up_small_halves(tables, raw.codes[2 * G + i], group.codes[i], group.codes[2 + i]);
    }
    return group;
  }
};

}  // namespace rocmforge::gpu
