// IQ1 to IQ4: code books of 8 or 4 values with signs, and non-linear 4-bit levels.
#pragma once

#include "hip/quants/codebooks.h"
#include "hip/quants/traits.h"

namespace rocmforge::gpu {

// Four grid values, none of them 0, negated where a bit of `negative` is set.
__device__ __forceinline__ int with_signs(uint32_t magnitudes, uint32_t negative) {
  const auto ones = static_cast<uint32_t>(bits_to_bytes(negative));
  return static_cast<int>((magnitudes ^ ones * 0xff) + ones);  // no byte overflows
}

// Signs of 8 values from a 7-bit index: their number is even, so that the eighth follows.
__device__ __forceinline__ uint32_t indexed_signs(uint32_t index) {
  index &= 127;
  return index | (__popc(index) & 1) << 7;
}

// Eight values of a grid with their signs.
__device__ __forceinline__ void signed_grid8(uint64_t grid, uint32_t negative, int* codes) {
  codes[0] = with_signs(static_cast<uint32_t>(grid), negative);
  codes[1] = with_signs(static_cast<uint32_t>(grid >> 32), negative >> 4);
}

// Steps of all these types: 64 weights, groups 0 and 1 of the first 32.
struct GridStep {
  static constexpr int kBlock = 256, kGroups = 4, kOffset = 0;
  static constexpr bool kMins = false;
  template <int G>
  static __device__ __forceinline__ int first(int step) {
    return 64 * step + 16 * G;
  }
};

struct IQ2_XXS : GridStep {
  static constexpr int kType = 16, kBytes = 66;
  enum { kParts, kScale };
  static constexpr Field kFields[] = {{2, 64}, {0, 2}};
  struct Raw {
    uint32_t parts[4];  // twice: four grid indices; four 7-bit sign indices and a 4-bit scale
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kParts>(view, block, 16 * step, raw.parts);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    const uint32_t index = raw.parts[G / 2 * 2], signs = raw.parts[G / 2 * 2 + 1];
    Group group{{}, half_bits(raw.d) * (0.5f + static_cast<float>(signs >> 28)) * 0.25f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = 2 * (G & 1) + i;
      signed_grid8(iq2xxs_grid[index >> (8 * n) & 255], indexed_signs(signs >> (7 * n)),
                   group.codes + 2 * i);
    }
    return group;
  }
};

struct IQ2_XS : GridStep {
  static constexpr int kType = 17, kBytes = 74;
  enum { kCodes, kScales, kScale };
  static constexpr Field kFields[] = {{2, 64}, {66, 8}, {0, 2}};
  struct Raw {
    uint32_t codes[4];  // pairs of a 9-bit grid index and a 7-bit sign index
    uint16_t scales;    // four nibbles
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 16 * step, raw.codes);
    raw.scales = read_u16<kScales>(view, block, 2 * step);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    const float number = static_cast<float>(raw.scales >> (4 * G) & 15);
    Group group{{}, half_bits(raw.d) * (0.5f + number) * 0.25f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const uint32_t code = raw.codes[G] >> (16 * i);
      signed_grid8(iq2xs_grid[code & 511], indexed_signs(code >> 9), group.codes + 2 * i);
    }
    return group;
  }
};

struct IQ2_S : GridStep {
  static constexpr int kType = 22, kBytes = 82;
  enum { kCodes, kSigns, kHigh, kScales, kScale };
  static constexpr Field kFields[] = {{2, 32}, {34, 32}, {66, 8}, {74, 8}, {0, 2}};
  struct Raw {
    uint32_t codes[2];
    uint32_t signs[2];
    uint16_t high;    // bits 8 and 9 of eight grid indices
    uint16_t scales;  // four nibbles
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 8 * step, raw.codes);
    read_words<kSigns>(view, block, 8 * step, raw.signs);
    raw.high = read_u16<kHigh>(view, block, 2 * step);
    raw.scales = read_u16<kScales>(view, block, 2 * step);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    const float number = static_cast<float>(raw.scales >> (4 * G) & 15);
    Group group{{}, half_bits(raw.d) * (0.5f + number) * 0.25f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = 2 * G + i;
      const uint32_t index = (raw.codes[n / 4] >> (8 * (n % 4)) & 255) | (raw.high >> (2 * n) & 3)
                                                                             << 8;
      signed_grid8(iq2s_grid[index], raw.signs[n / 4] >> (8 * (n % 4)), group.codes + 2 * i);
    }
    return group;
  }
};

struct IQ3_XXS : GridStep {
  static constexpr int kType = 18, kBytes = 98;
  enum { kCodes, kSigns, kScale };
  static constexpr Field kFields[] = {{2, 64}, {66, 32}, {0, 2}};
  struct Raw {
    uint32_t codes[4];
    uint32_t signs[2];  // four 7-bit sign indices and a 4-bit scale
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 16 * step, raw.codes);
    read_words<kSigns>(view, block, 8 * step, raw.signs);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    const uint32_t packed = raw.signs[G / 2];
    Group group{{}, half_bits(raw.d) * (0.5f + static_cast<float>(packed >> 28)) * 0.5f, 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t signs = indexed_signs(packed >> (7 * (2 * (G & 1) + i / 2)));
      group.codes[i] =
          with_signs(iq3xxs_grid[raw.codes[G] >> (8 * i) & 255], signs >> (4 * (i & 1)));
    }
    return group;
  }
};

struct IQ3_S : GridStep {
  static constexpr int kType = 21, kBytes = 110;
  enum { kCodes, kSigns, kHigh, kScales, kScale };
  static constexpr Field kFields[] = {{2, 64}, {74, 32}, {66, 8}, {106, 4}, {0, 2}};
  struct Raw {
    uint32_t codes[4];
    uint32_t signs[2];
    uint16_t high;   // bit 8 of sixteen grid indices
    uint8_t scales;  // two nibbles
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 16 * step, raw.codes);
    read_words<kSigns>(view, block, 8 * step, raw.signs);
    raw.high = read_u16<kHigh>(view, block, 2 * step);
    raw.scales = view.template field<kScales>(block)[step];
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    const int number = raw.scales >> (G / 2 * 4) & 15;
    Group group{{}, half_bits(raw.d) * static_cast<float>(1 + 2 * number), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t index = (raw.codes[G] >> (8 * i) & 255) | (raw.high >> (4 * G + i) & 1u) << 8;
      group.codes[i] = with_signs(iq3s_grid[index], raw.signs[G / 2] >> (16 * (G & 1) + 4 * i));
    }
    return group;
  }
};

// IQ1 weights are scale * (g + 1/8) or scale * (g - 1/8) with g of -1, 0, 1. The codes are 8 g + 1
// or 8 g - 1 under an eighth of the scale, which is the same number exactly.
__device__ __forceinline__ int eighths(uint32_t grid, bool minus) {
  constexpr uint32_t kTop = 0x80808080, kOnes = 0x01010101;
  const uint32_t eight = grid << 3 & 0xf8f8f8f8;
  // A byte-wise decrement: the borrow stops at a top bit that is set for it.
  return static_cast<int>(minus ? ((eight | kTop) - kOnes) ^ (~eight & kTop) : eight | kOnes);
}

__device__ __forceinline__ void ternary_grid8(uint32_t index, bool minus, int* codes) {
  const uint64_t grid = iq1s_grid[index];
  codes[0] = eighths(static_cast<uint32_t>(grid), minus);
  codes[1] = eighths(static_cast<uint32_t>(grid >> 32), minus);
}

struct IQ1_S : GridStep {
  static constexpr int kType = 19, kBytes = 50;
  enum { kCodes, kHigh, kScale };
  static constexpr Field kFields[] = {{2, 32}, {34, 16}, {0, 2}};
  struct Raw {
    uint32_t codes[2];
    uint32_t high[1];  // twice: four times 3 high index bits, a 3-bit scale, the shift's sign
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 8 * step, raw.codes);
    read_words<kHigh>(view, block, 4 * step, raw.high);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    const uint32_t high = raw.high[0] >> (G / 2 * 16);
    const int number = high >> 12 & 7;
    Group group{{}, half_bits(raw.d) * static_cast<float>(2 * number + 1) * 0.125f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = 2 * (G & 1) + i;
      const uint32_t index = (raw.codes[G / 2] >> (8 * n) & 255) | (high >> (3 * n) & 7) << 8;
      ternary_grid8(index, high >> 15 & 1, group.codes + 2 * i);
    }
    return group;
  }
};

struct IQ1_M : GridStep {
  static constexpr int kType = 29, kBytes = 56;
  enum { kCodes, kHigh, kScales };
  static constexpr Field kFields[] = {{0, 32}, {32, 16}, {48, 8}};
  struct Raw {
    uint32_t codes[2];
    uint32_t high[1];    // per 8 weights: 3 high index bits, the sign of the shift
    uint32_t scales[2];  // four times: four 3-bit scales, 4 bits of the super-block's float16
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 8 * step, raw.codes);
    read_words<kHigh>(view, block, 4 * step, raw.high);
    read_words<kScales>(view, block, 0, raw.scales);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    const uint32_t low = raw.scales[0], high = raw.scales[1];
    const float d = half_bits(static_cast<uint16_t>((low >> 12 & 0xf) | (low >> 24 & 0xf0) |
                                                    (high >> 4 & 0xf00) | (high >> 16 & 0xf000)));
    const uint32_t scales = (step & 2 ? high : low) >> (16 * (step & 1));
    const int number = scales >> (3 * G) & 7;
    Group group{{}, d * static_cast<float>(2 * number + 1) * 0.125f, 0.0f};
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int n = 2 * G + i;
      const uint32_t bits = raw.high[0] >> (4 * n);
      const uint32_t index = (raw.codes[n / 4] >> (8 * (n % 4)) & 255) | (bits & 7) << 8;
      ternary_grid8(index, bits >> 3 & 1, group.codes + 2 * i);
    }
    return group;
  }
};

struct IQ4_NL : WholeBlock {
  static constexpr int kType = 20, kBlock = 32, kBytes = 18, kGroups = 2, kOffset = 0;
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
    for (int i = 0; i < 4; ++i) group.codes[i] = look_up_nibbles<G>(kIq4Levels, raw.codes[i]);
    return group;
  }
};

// A step is one sub-block of 32.
struct IQ4_XS {
  static constexpr int kType = 23, kBlock = 256, kBytes = 136, kGroups = 2, kOffset = 0;
  static constexpr bool kMins = false;
  enum { kCodes, kScales, kScale };
  static constexpr Field kFields[] = {{8, 128}, {4, 4}, {0, 4}};
  struct Raw {
    uint32_t codes[4];
    uint32_t scales[1];  // the low 4 bits of eight scales
    uint32_t d[1];       // the float16 scale, and the top two bits of eight scales
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
    const uint32_t number = (raw.scales[0] >> (4 * step) & 15) | (raw.d[0] >> (16 + 2 * step) & 3)
                                                                     << 4;
    Group group{{}, low_half(raw.d[0]) * static_cast<float>(static_cast<int>(number) - 32), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] = look_up_nibbles<G>(kIq4Levels, raw.codes[i]);
    return group;
  }
  template <int G>
  static __device__ __forceinline__ int first(int step) {
    return 32 * step + 16 * G;
  }
};

}  // namespace rocmforge::gpu
