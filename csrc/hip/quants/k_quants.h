// Q2_K to Q6_K: 256 weights in sub-blocks of 16 or 32, whose scales are integers times one float.
#pragma once

#include "hip/quants/traits.h"

namespace rocmforge::gpu {

// Bytes 0 and 2 of two words, or 1 and 3.
__device__ __forceinline__ uint32_t every_second_byte(uint32_t low, uint32_t high, int first) {
  return select_bytes(low, high,
                      first == 0 ? byte_selector(0, 2, 4, 6) : byte_selector(1, 3, 5, 7));
}

// A step is 16 bytes of 2-bit codes: four groups, 32 weights apart.
struct Q2_K : FourGroups {
  static constexpr int kType = 10, kBlock = 256, kBytes = 84, kGroups = 4, kOffset = 0;
  static constexpr bool kMins = true;
  static constexpr float kCentre = 1.5f;
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
    const uint32_t packed = every_second_byte(raw.scales[0], raw.scales[1], step & 1);
    Group group{{},
                low_half(raw.d[0]) * byte_value<G>(packed & 0x0f0f0f0f, 1.0f, 0.0f),
                -(high_half(raw.d[0]) * byte_value<G>(packed >> 4 & 0x0f0f0f0f, 1.0f, 0.0f))};
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
    const int half = step / 2;
    const uint32_t low = every_second_byte(raw.scales[0], raw.scales[1], step & 1) >> (4 * half);
    const uint32_t top2 = raw.scales[2] >> (4 * half);
    const uint32_t high = every_second_byte(top2, top2 >> 2, step & 1);
    const uint32_t scales = (low & 0x0f0f0f0f) | (high << 4 & 0x30303030);
    Group group{{}, half_bits(raw.d) * byte_value<G>(scales, 1.0f, -32.0f), 0.0f};
    bit_fields<2>(raw.low, 2 * G, group.codes);
    uint32_t top[4];
#pragma unroll
    for (int i = 0; i < 4; ++i) top[i] = raw.high[i] >> (4 * half);
    add_bits<1, G, 2>(top, group.codes);
    return group;
  }
};

// Scale and minimum of sub-block 2 * STEP + J of Q4_K and Q5_K: 6 bits each in 12 bytes, packed as
// ggml does.
template <int J>
__device__ __forceinline__ void scale_min_6bit(const uint32_t (&packed)[3], int step, float& scale,
                                               float& min) {
  const int shift = 16 * (step & 1) + 8 * J;
  const uint32_t low = packed[0] >> shift, high = packed[1] >> shift, top = packed[2] >> shift;
  const bool first = step < 2;
  scale = field_value(first ? low : (top & 15) | (low >> 2 & 48), 63);
  min = field_value(first ? high : (top >> 4 & 15) | (high >> 2 & 48), 63);
}

// A step is two sub-blocks of 32, one in the low halves of 32 bytes and one in the high halves.
struct Q4_K {
  static constexpr int kType = 12, kBlock = 256, kBytes = 144, kGroups = 4, kSpan = 2, kOffset = 0;
  static constexpr bool kMins = true;
  static constexpr float kCentre = 7.5f;
  enum { kCodes, kScales, kScale };
  static constexpr Field kFields[] = {{16, 128}, {4, 12}, {0, 4}};
  struct Raw {
    uint32_t codes[8];
    uint32_t scales[3];
    uint32_t d[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 32 * step, raw.codes);
    read_words<kScales>(view, block, 0, raw.scales);
    read_words<kScale>(view, block, 0, raw.d);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    float scale, min;
    scale_min_6bit<G / 2>(raw.scales, step, scale, min);
    Group group{{}, low_half(raw.d[0]) * scale, -(high_half(raw.d[0]) * min)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      group.codes[i] = static_cast<int>(raw.codes[4 * (G & 1) + i] >> (G / 2 * 4) & 0x0f0f0f0f);
    }
    return group;
  }
  template <int G>
  static constexpr __device__ __forceinline__ int first(int step) {
    return 64 * step + 16 * G;
  }
};

// The same with 32 bytes of fifth bits, of which every sub-block has one.
struct Q5_K {
  static constexpr int kType = 13, kBlock = 256, kBytes = 176, kGroups = 4, kSpan = 2, kOffset = 0;
  static constexpr bool kMins = true;
  static constexpr float kCentre = 15.5f;
  enum { kCodes, kHigh, kScales, kScale };
  static constexpr Field kFields[] = {{48, 128}, {16, 32}, {4, 12}, {0, 4}};
  struct Raw {
    uint32_t codes[8];
    uint32_t high[8];
    uint32_t scales[3];
    uint32_t d[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 32 * step, raw.codes);
    read_words<kHigh>(view, block, 0, raw.high);
    read_words<kScales>(view, block, 0, raw.scales);
    read_words<kScale>(view, block, 0, raw.d);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    float scale, min;
    scale_min_6bit<G / 2>(raw.scales, step, scale, min);
    Group group{{}, low_half(raw.d[0]) * scale, -(high_half(raw.d[0]) * min)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t high = raw.high[4 * (G & 1) + i] >> (2 * step);
      const uint32_t low = raw.codes[4 * (G & 1) + i] >> (G / 2 * 4) & 0x0f0f0f0f;
      group.codes[i] = static_cast<int>(low | (high << (4 - G / 2) & 0x10101010));
    }
    return group;
  }
  template <int G>
  static constexpr __device__ __forceinline__ int first(int step) {
    return 64 * step + 16 * G;
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
    nibbles<G / 2>(raw.low[G & 1], group.codes);
    add_bits<2, 2 * G, 4>(raw.high, group.codes);
    return group;
  }
};

}  // namespace rocmforge::gpu
