// Q2_K to Q6_K: 256 weights in sub-blocks of 16 or 32, whose scales are integers times one float.
#pragma once

#include "hip/quants/traits.h"

namespace rocmforge::gpu {

// Scale and minimum J (0 to 7) of Q4_K and Q5_K: 6 bits each in 12 bytes, packed as ggml does.
__device__ __forceinline__ void scale_min_6bit(const uint32_t (&packed)[3], int j, int& scale,
                                               int& min) {
  const int shift = 8 * (j & 3);
  const uint32_t low = packed[0] >> shift, high = packed[1] >> shift, top = packed[2] >> shift;
  scale = j < 4 ? low & 63 : (top & 15) | (low >> 6 & 3) << 4;
  min = j < 4 ? high & 63 : (top >> 4 & 15) | (high >> 6 & 3) << 4;
}

// A step is 16 bytes of codes: 16 weights of one sub-block of 32 in their low halves, 16 of the next
// in their high halves.
struct Q4_K {
  static constexpr int kType = 12, kBlock = 256, kBytes = 144, kGroups = 2, kOffset = 0;
  static constexpr bool kMins = true;
  enum { kCodes, kScales, kScale };
  static constexpr Field kFields[] = {{16, 128}, {4, 12}, {0, 4}};
  struct Raw {
    uint32_t codes[4];
    uint32_t scales[3];
    uint32_t d[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 16 * step, raw.codes);
    read_words<kScales>(view, block, 0, raw.scales);
    read_words<kScale>(view, block, 0, raw.d);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    int scale, min;
    scale_min_6bit(raw.scales, step / 2 * 2 + G, scale, min);
    Group group{{},
                half_bits(static_cast<uint16_t>(raw.d[0])) * scale,
                -(half_bits(static_cast<uint16_t>(raw.d[0] >> 16)) * min)};
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] = raw.codes[i] >> (4 * G) & 0x0f0f0f0f;
    return group;
  }
  template <int G>
  static __device__ __forceinline__ int first(int step) {
    return step / 2 * 64 + 32 * G + 16 * (step & 1);
  }
};

// A step is 16 bytes of the high bits with the 32 bytes of low bits that belong to them: four groups,
// 32 weights apart.
struct Q6_K {
  static constexpr int kType = 14, kBlock = 256, kBytes = 210, kGroups = 4, kOffset = 32;
  static constexpr bool kMins = false;
  enum { kLow, kHigh, kScales, kScale };
  static constexpr Field kFields[] = {{0, 128}, {128, 64}, {192, 16}, {208, 2}};
  struct Raw {
    uint32_t low[2][4];
    uint32_t high[4];
    int8_t scales[4];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    const int half = step / 2, part = step & 1;  // of the block, of the half
    read_words<kLow>(view, block, 64 * half + 16 * part, raw.low[0]);
    read_words<kLow>(view, block, 64 * half + 32 + 16 * part, raw.low[1]);
    read_words<kHigh>(view, block, 32 * half + 16 * part, raw.high);
    const uint8_t* scales = view.template field<kScales>(block) + 8 * half + part;
#pragma unroll
    for (int g = 0; g < 4; ++g) raw.scales[g] = static_cast<int8_t>(scales[2 * g]);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d) * raw.scales[G], 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      group.codes[i] = (raw.low[G & 1][i] >> (G & 2 ? 4 : 0) & 0x0f0f0f0f) |
                       (raw.high[i] >> (2 * G) & 0x03030303) << 4;
    }
    return group;
  }
  template <int G>
  static __device__ __forceinline__ int first(int step) {
    return step / 2 * 128 + 32 * G + 16 * (step & 1);
  }
};

}  // namespace rocmforge::gpu
