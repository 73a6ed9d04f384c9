// Q2_K to Q6_K: super-blocks of 256 with quantized scales per 16 or 32 weights.
#pragma once

#include "cpu/quants/traits.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

struct Q2_K : Trait<10, 256, 16, 0, true> {
  struct RF_PACKED Block {
    uint8_t scales[16];  // low nibble: scale, high nibble: minimum
    uint8_t qs[64];
    uint16_t d, dmin;
  };
  static_assert(sizeof(Block) == 84);
  static RF_INLINE void scales(const Block& b, float* scale, float* min) {
    const float d = half_to_float(b.d), dmin = half_to_float(b.dmin);
    for (int i = 0; i < 16; i += 8) {
      const uint64_t packed = load<uint64_t>(b.scales + i);
      store(scale + i, d * numbers(packed & 0x0F0F0F0F0F0F0F0F));
      store(min + i, -dmin * numbers(packed >> 4 & 0x0F0F0F0F0F0F0F0F));
    }
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    return field<2>(b.qs + i / 4 * 32, 2 * (i % 4));
  }
};

struct Q3_K : Trait<11, 256, 16, 4> {
  struct RF_PACKED Block {
    uint8_t high[32];  // bit i of byte j: bit 2 of element 32 i + j
    uint8_t qs[64];
    uint8_t scales[12];  // 6 bits each: nibbles in 8 bytes, the top two bits in 4
    uint16_t d;
  };
  static_assert(sizeof(Block) == 110);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    const uint64_t low = load<uint64_t>(b.scales), high = load<uint32_t>(b.scales + 8);
    const uint64_t nibble = 0x0F0F0F0F0F0F0F0F, pair = 0x03030303;
    const uint64_t number[2] = {
        (low & nibble) | (high & pair) << 4 | (high >> 2 & pair) << 36,
        (low >> 4 & nibble) | (high >> 4 & pair) << 4 | (high >> 6 & pair) << 36};
    // Each is below 64, so that no byte borrows from its neighbour.
    const uint64_t borrow = 0x8080808080808080, offset = 0x2020202020202020;
    const float d = half_to_float(b.d);
    for (int i = 0; i < 2; ++i)
      store(scale + 8 * i, d * numbers<int8_t>(((number[i] | borrow) - offset) ^ borrow));
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    return field<2>(b.qs + i / 4 * 32, 2 * (i % 4)) | field<1, 2>(b.high, i);
  }
};

// The 8 scales and 8 minima of 6 bits in 12 bytes that Q4_K and Q5_K share. Bytes 0-3 and 4-7 hold
// scales and minima 0-3, and above them the top bits of numbers 4-7; bytes 8-11 hold the low
// nibbles of scales (low) and minima (high) 4-7.
RF_INLINE void scales_and_mins(const uint8_t* packed, float d, float dmin, float* scale,
                               float* min) {
  const uint64_t both = load<uint64_t>(packed), rest = load<uint32_t>(packed + 8);
  const uint64_t six = 0x3F3F3F3F, four = 0x0F0F0F0F, two = 0x03030303;
  const uint64_t scales = (both & six) | ((rest & four) | (both >> 6 & two) << 4) << 32;
  const uint64_t mins = (both >> 32 & six) | ((rest >> 4 & four) | (both >> 38 & two) << 4) << 32;
  store(scale, d * numbers(scales));
  store(min, -dmin * numbers(mins));
}

struct Q4_K : Trait<12, 256, 32, 0, true> {
  struct RF_PACKED Block {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t qs[128];
  };
  static_assert(sizeof(Block) == 144);
  static RF_INLINE void scales(const Block& b, float* scale, float* min) {
    scales_and_mins(b.scales, half_to_float(b.d), half_to_float(b.dmin), scale, min);
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    return field<4>(b.qs + i / 2 * 32, 4 * (i % 2));
  }
};

struct Q5_K : Trait<13, 256, 32, 0, true> {
  struct RF_PACKED Block {
    uint16_t d, dmin;
    uint8_t scales[12];
    uint8_t high[32];  // bit i of byte j: bit 4 of element 32 i + j
    uint8_t qs[128];
  };
  static_assert(sizeof(Block) == 176);
  static RF_INLINE void scales(const Block& b, float* scale, float* min) {
    scales_and_mins(b.scales, half_to_float(b.d), half_to_float(b.dmin), scale, min);
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    return field<4>(b.qs + i / 2 * 32, 4 * (i % 2)) | field<1, 4>(b.high, i);
  }
};

struct Q6_K : Trait<14, 256, 16, 32> {
  struct RF_PACKED Block {
    uint8_t low[128];
    uint8_t high[64];
    int8_t scales[16];
    uint16_t d;
  };
  static_assert(sizeof(Block) == 210);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    const float d = half_to_float(b.d);
    for (int i = 0; i < 16; i += 8)
      store(scale + i, d * numbers<int8_t>(load<uint64_t>(b.scales + i)));
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    return field<4>(b.low + i / 4 * 64 + i % 2 * 32, i % 4 / 2 * 4) |
           field<2, 4>(b.high + i / 4 * 32, 2 * (i % 4));
  }
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
