// Q2_K to Q6_K: 256 weights in sub-blocks of 16 or 32, whose scales are integers times one float.
#pragma once

#include "hip/quants/traits.h"

namespace rocmforge::gpu {

// A step is 16 bytes of 2-bit codes: four groups, 32 weights apart.
struct Q2_K : FourGroups {
  static constexpr int kType = 10, kBlock = 256, kBytes = 84, kGroups = 4, kOffset = 0;
  static constexpr bool kMins = true;
  enum { kCodes, kScales, kScale };
  static constexpr Field kFields[] = {{16, 64}, {0, 16}, {80, 4}};
  struct Raw {
    uint32_t codes[4];
    uint32_t scales[2];  // low nibble: scale, high nibble: minimum
    uint32_t d[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 16 * step, raw.codes);
    read_words<kScales>(view, block, step / 2 * 8, raw.scales);
    read_words<kScale>(view, block, 0, raw.d);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    const uint32_t packed = raw.scales[G / 2] >> (16 * (G & 1) + 8 * (step & 1));
    Group group{{},
                low_half(raw.d[0]) * static_cast<float>(packed & 15),
                -(high_half(raw.d[0]) * static_cast<float>(packed >> 4 & 15))};
    bit_fields<2>(raw.codes, 2 * G, group.codes);
    return group;
  }
};

struct Q3_K : FourGroups {
  static constexpr int kType = 11, kBlock = 256, kBytes = 110, kGroups = 4, kOffset = 4;
  static constexpr bool kMins = false;
  enum { kLow, kHigh, kScales, kScale };
  static constexpr Field kFields[] = {{32, 64}, {0, 32}, {96, 12}, {108, 2}};
  struct Raw {
    uint32_t low[4];
    uint32_t high[4];
    uint32_t scales[3];  // nibbles in 8 bytes, the top two bits in 4
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kLow>(view, block, 16 * step, raw.low);
    read_words<kHigh>(view, block, 16 * (step & 1), raw.high);
    read_words<kScales>(view, block, 0, raw.scales);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    const int half = step / 2, shift = 16 * (G & 1) + 8 * (step & 1);  // to the scale's byte
    const uint32_t low = raw.scales[G / 2] >> (shift + 4 * half) & 15;
    const uint32_t high = raw.scales[2] >> (shift + 4 * half + G / 2 * 2) & 3;
    const int scale = static_cast<int>(low | high << 4) - 32;
    Group group{{}, half_bits(raw.d) * static_cast<float>(scale), 0.0f};
    int top[4];
    bit_fields<2>(raw.low, 2 * G, group.codes);
    bit_fields<1>(raw.high, 4 * half + G, top);
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] |= top[i] << 2;
    return group;
  }
};

// Scale and minimum J (0 to 7) of Q4_K and Q5_K: 6 bits each in 12 bytes, packed as ggml does.
__device__ __forceinline__ void scale_min_6bit(const uint32_t (&packed)[3], int j, int& scale,
                                               int& min) {
  const int shift = 8 * (j & 3);
  const uint32_t low = packed[0] >> shift, high = packed[1] >> shift, top = packed[2] >> shift;
  scale = j < 4 ? low & 63 : (top & 15) | (low >> 6 & 3) << 4;
  min = j < 4 ? high & 63 : (top >> 4 & 15) | (high >> 6 & 3) << 4;
}

// A step is 16 bytes of codes: 16 weights of one sub-block of 32 in their low halves, 16 of the
// next in their high halves.
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
                low_half(raw.d[0]) * static_cast<float>(scale),
                -(high_half(raw.d[0]) * static_cast<float>(min))};
    nibbles<G>(raw.codes, group.codes);
    return group;
  }
  template <int G>
  static __device__ __forceinline__ int first(int step) {
    return step / 2 * 64 + 32 * G + 16 * (step & 1);
  }
};

struct Q5_K {
  static constexpr int kType = 13, kBlock = 256, kBytes = 176, kGroups = 2, kOffset = 0;
  static constexpr bool kMins = true;
  enum { kCodes, kHigh, kScales, kScale };
  static constexpr Field kFields[] = {{48, 128}, {16, 32}, {4, 12}, {0, 4}};
  struct Raw {
    uint32_t codes[4];
    uint32_t high[4];
    uint32_t scales[3];
    uint32_t d[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 16 * step, raw.codes);
    read_words<kHigh>(view, block, 16 * (step & 1), raw.high);
    read_words<kScales>(view, block, 0, raw.scales);
    read_words<kScale>(view, block, 0, raw.d);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    int scale, min, top[4];
    scale_min_6bit(raw.scales, step / 2 * 2 + G, scale, min);
    Group group{{},
                low_half(raw.d[0]) * static_cast<float>(scale),
                -(high_half(raw.d[0]) * static_cast<float>(min))};
    nibbles<G>(raw.codes, group.codes);
    bit_fields<1>(raw.high, step / 2 * 2 + G, top);
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] |= top[i] << 4;
    return group;
  }
  template <int G>
  static __device__ __forceinline__ int first(int step) {
    return Q4_K::first<G>(step);
  }
};

// A step is 16 bytes of the high bits with the 32 bytes of low bits that belong to them.
struct Q6_K : FourGroups {
  static constexpr int kType = 14, kBlock = 256, kBytes = 210, kGroups = 4, kOffset = 32;
  static constexpr bool kMins = false;
  enum { kLow, kHigh, kScales, kScale };
  static constexpr Field kFields[] = {{0, 128}, {128, 64}, {192, 16}, {208, 2}};
  struct Raw {
    uint32_t low[2][4];
    uint32_t high[4];
    uint32_t scales[2];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    const int half = step / 2, part = step & 1;  // of the block, of the half
    read_words<kLow>(view, block, 64 * half + 16 * part, raw.low[0]);
    read_words<kLow>(view, block, 64 * half + 32 + 16 * part, raw.low[1]);
    read_words<kHigh>(view, block, 16 * step, raw.high);
    read_words<kScales>(view, block, 8 * half, raw.scales);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    const auto scale = static_cast<int8_t>(raw.scales[G / 2] >> (16 * (G & 1) + 8 * (step & 1)));
    Group group{{}, half_bits(raw.d) * static_cast<float>(scale), 0.0f};
    int top[4];
    nibbles<G / 2>(raw.low[G & 1], group.codes);
    bit_fields<2>(raw.high, 2 * G, top);
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] |= top[i] << 4;
    return group;
  }
};

}  // namespace rocmforge::gpu
