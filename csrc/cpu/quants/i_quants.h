// IQ1 to IQ4: code books of 8 or 4 values with signs, and non-linear 4-bit levels.
#pragma once

#include "cpu/quants/traits.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

// Grid values below 64 with the sign of each in a bit, as codes with offset 64.
RF_INLINE u8x32 with_signs(u8x32 magnitude, uint32_t negative) {
  const u8x32 mask = expand_bits(negative);
  return ((magnitude ^ mask) - mask) + 64;
}

// Sign bits of 32 values from four 7-bit indices.
RF_INLINE uint32_t indexed_signs(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return ksigns[a & 127] | ksigns[b & 127] << 8 | ksigns[c & 127] << 16 |
         static_cast<uint32_t>(ksigns[d & 127]) << 24;
}

RF_INLINE uint32_t packed_signs(uint32_t word) {
  return indexed_signs(word, word >> 7, word >> 14, word >> 21);
}

RF_INLINE u8x32 grid8(const uint64_t* grid, int a, int b, int c, int d) {
  return (u8x32)u64x4{grid[a], grid[b], grid[c], grid[d]};
}

// Sixteen scales d * (1/2 + nibble) * 1/4.
RF_INLINE void quarter_scales(const uint8_t* packed, float d, float* scale) {
  for (int i = 0; i < 2; ++i) {
    const uint64_t number = spread_nibbles(load<uint32_t>(packed + 4 * i));
    store(scale + 8 * i, d * (0.5f + numbers(number)) * 0.25f);
  }
}

// The top nibbles of eight 32-bit words, `stride` bytes apart.
RF_INLINE f32x8 top_nibbles(const uint8_t* words, int stride) {
  uint64_t number = 0;
  for (int i = 0; i < 8; ++i) number |= static_cast<uint64_t>(words[i * stride + 3] >> 4) << 8 * i;
  return numbers(number);
}

RF_INLINE u8x32 grid4(const uint32_t* grid, const int* index) {
  u64x4 v;
  for (int i = 0; i < 4; ++i)
    v[i] = grid[index[2 * i]] | static_cast<uint64_t>(grid[index[2 * i + 1]]) << 32;
  return (u8x32)v;
}

struct IQ2_XXS : Trait<16, 256, 32, 64> {
  struct RF_PACKED Block {
    uint16_t d;
    struct RF_PACKED {
      uint8_t index[4];
      uint8_t signs_and_scale[4];  // four 7-bit sign indices, a 4-bit scale
    } part[8];
  };
  static_assert(sizeof(Block) == 66);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    const f32x8 number = top_nibbles(b.part[0].signs_and_scale, 8);
    store(scale, half_to_float(b.d) * (0.5f + number) * 0.25f);
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    const uint8_t* q = b.part[i].index;
    return with_signs(grid8(iq2xxs_grid, q[0], q[1], q[2], q[3]),
                      packed_signs(load<uint32_t>(b.part[i].signs_and_scale)));
  }
};

struct IQ2_XS : Trait<17, 256, 16, 64> {
  struct RF_PACKED Block {
    uint16_t d;
    uint16_t qs[32];  // a 9-bit grid index and a 7-bit sign index
    uint8_t scales[8];
  };
  static_assert(sizeof(Block) == 74);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    quarter_scales(b.scales, half_to_float(b.d), scale);
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    const int q0 = b.qs[4 * i], q1 = b.qs[4 * i + 1], q2 = b.qs[4 * i + 2], q3 = b.qs[4 * i + 3];
    return with_signs(grid8(iq2xs_grid, q0 & 511, q1 & 511, q2 & 511, q3 & 511),
                      indexed_signs(q0 >> 9, q1 >> 9, q2 >> 9, q3 >> 9));
  }
};

struct IQ2_S : Trait<22, 256, 16, 64> {
  struct RF_PACKED Block {
    uint16_t d;
    uint8_t qs[32];
    uint32_t signs[8];
    uint8_t high[8];  // bits 8 and 9 of four grid indices
    uint8_t scales[8];
  };
  static_assert(sizeof(Block) == 82);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    quarter_scales(b.scales, half_to_float(b.d), scale);
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    const uint8_t* q = b.qs + 4 * i;
    const int h = b.high[i];
    return with_signs(grid8(iq2s_grid, q[0] | (h << 8 & 0x300), q[1] | (h << 6 & 0x300),
                            q[2] | (h << 4 & 0x300), q[3] | (h << 2 & 0x300)),
                      b.signs[i]);
  }
};

struct IQ3_XXS : Trait<18, 256, 32, 64> {
  struct RF_PACKED Block {
    uint16_t d;
    uint8_t qs[64];
    uint8_t signs_and_scale[32];
  };
  static_assert(sizeof(Block) == 98);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    const f32x8 number = top_nibbles(b.signs_and_scale, 4);
    store(scale, half_to_float(b.d) * (0.5f + number) * 0.5f);
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    int index[8];
    for (int j = 0; j < 8; ++j) index[j] = b.qs[8 * i + j];
    return with_signs(grid4(iq3xxs_grid, index),
                      packed_signs(load<uint32_t>(b.signs_and_scale + 4 * i)));
  }
};

struct IQ3_S : Trait<21, 256, 32, 64> {
  struct RF_PACKED Block {
    uint16_t d;
    uint8_t qs[64];
    uint8_t high[8];  // bit 8 of eight grid indices
    uint32_t signs[8];
    uint8_t scales[4];
  };
  static_assert(sizeof(Block) == 110);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    const uint64_t number = spread_nibbles(load<uint32_t>(b.scales));
    store(scale, half_to_float(b.d) * (1 + 2 * numbers(number)));
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    int index[8];
    for (int j = 0; j < 8; ++j) index[j] = b.qs[8 * i + j] | (b.high[i] << (8 - j) & 0x100);
    return with_signs(grid4(iq3s_grid, index), b.signs[i]);
  }
};

// IQ1 weights are scale * (g + 1/8) or scale * (g - 1/8) with g of -1, 0, 1. The codes are
// 8 g + 1 or 8 g - 1 under an eighth of the scale, which is the same number exactly.
RF_INLINE u8x32 ternary_grid(u8x32 grid, uint32_t minus) {
  const u8x32 shift = expand_bits(minus);
  return (grid << 3) + 17 + shift + shift;
}

// All bits of byte i set where bit i of `bits` is.
RF_INLINE uint32_t four_bytes(uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  return (a & 1) * 0xFFu | (b & 1) * 0xFF00u | (c & 1) * 0xFF0000u | (d & 1) * 0xFF000000u;
}

struct IQ1_S : Trait<19, 256, 32, 16> {
  struct RF_PACKED Block {
    uint16_t d;
    uint8_t qs[32];
    uint16_t high[8];  // four times 3 high index bits, a 3-bit scale, the sign of the shift
  };
  static_assert(sizeof(Block) == 50);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    uint64_t number = 0;
    for (int i = 0; i < 8; ++i) number |= static_cast<uint64_t>(b.high[i] >> 12 & 7) << 8 * i;
    store(scale, half_to_float(b.d) * (2 * numbers(number) + 1) * 0.125f);
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    const uint8_t* q = b.qs + 4 * i;
    const int h = b.high[i];
    return ternary_grid(grid8(iq1s_grid, q[0] | (h << 8 & 0x700), q[1] | (h << 5 & 0x700),
                              q[2] | (h << 2 & 0x700), q[3] | (h >> 1 & 0x700)),
                        h >> 15 ? 0xFFFFFFFF : 0);
  }
};

struct IQ1_M : Trait<29, 256, 16, 16> {
  struct RF_PACKED Block {
    uint8_t qs[32];
    uint8_t high[16];    // per 8 weights: 3 high index bits, the sign of the shift
    uint16_t scales[4];  // four 3-bit scales each, and 4 bits of the float16 super-block scale
  };
  static_assert(sizeof(Block) == 56);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    uint16_t s[4];
    __builtin_memcpy(s, b.scales, sizeof(s));
    const float d = half_to_float(static_cast<uint16_t>(s[0] >> 12 | (s[1] >> 12) << 4 |
                                                        (s[2] >> 12) << 8 | (s[3] >> 12) << 12));
    for (int i = 0; i < 2; ++i) {
      uint64_t number = 0;
      for (int j = 0; j < 8; ++j)
        number |= static_cast<uint64_t>(s[2 * i + j / 4] >> (3 * (j % 4)) & 7) << 8 * j;
      store(scale + 8 * i, d * (2 * numbers(number) + 1) * 0.125f);
    }
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    const uint8_t* q = b.qs + 4 * i;
    const int h0 = b.high[2 * i], h1 = b.high[2 * i + 1];
    return ternary_grid(grid8(iq1s_grid, q[0] | (h0 << 8 & 0x700), q[1] | (h0 << 4 & 0x700),
                              q[2] | (h1 << 8 & 0x700), q[3] | (h1 << 4 & 0x700)),
                        four_bytes(h0 >> 3, h0 >> 7, h1 >> 3, h1 >> 7));
  }
};

// kvalues_iq4nl as codes with offset 128.
inline constexpr uint8_t kIq4Codes[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                          129, 141, 153, 166, 181, 197, 217, 241};

struct IQ4_NL : Trait<20, 32, 32, 128, false, true> {
  struct RF_PACKED Block {
    uint16_t d;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 18);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    scale[0] = half_to_float(b.d);
  }
  static RF_INLINE u8x32 codes(const Block& b, int) { return look_up(kIq4Codes, nibbles(b.qs)); }
};

struct IQ4_XS : Trait<23, 256, 32, 128, false, true> {
  struct RF_PACKED Block {
    uint16_t d;
    uint16_t scales_high;  // the top two bits of every scale
    uint8_t scales_low[4];
    uint8_t qs[128];
  };
  static_assert(sizeof(Block) == 136);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    uint64_t number = spread_nibbles(load<uint32_t>(b.scales_low));
    for (int i = 0; i < 8; ++i)
      number |= static_cast<uint64_t>(b.scales_high >> (2 * i) & 3) << (8 * i + 4);
    store(scale, half_to_float(b.d) * (numbers(number) - 32));
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    return look_up(kIq4Codes, nibbles(b.qs + 16 * i));
  }
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
