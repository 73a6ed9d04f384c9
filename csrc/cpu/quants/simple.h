// Q4_0 to Q8_1, Q8_K and Q1_0: one scale (and one minimum) per block.
#pragma once

#include "cpu/quants/traits.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

struct Q4_0 : Trait<2, 32, 32, 8> {
  struct RF_PACKED Block {
    uint16_t d;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 18);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    scale[0] = half_to_float(b.d);
  }
  static RF_INLINE u8x32 codes(const Block& b, int) { return nibbles(b.qs); }
};

struct Q4_1 : Trait<3, 32, 32, 0, true> {
  struct RF_PACKED Block {
    uint16_t d, m;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 20);
  static RF_INLINE void scales(const Block& b, float* scale, float* min) {
    scale[0] = half_to_float(b.d);
    min[0] = half_to_float(b.m);
  }
  static RF_INLINE u8x32 codes(const Block& b, int) { return nibbles(b.qs); }
};

struct Q5_0 : Trait<6, 32, 32, 16> {
  struct RF_PACKED Block {
    uint16_t d;
    uint32_t qh;  // bit 4 of every element, in order
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 22);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    scale[0] = half_to_float(b.d);
  }
  static RF_INLINE u8x32 codes(const Block& b, int) {
    return nibbles(b.qs) | (expand_bits(b.qh) & 16);
  }
};

struct Q5_1 : Trait<7, 32, 32, 0, true> {
  struct RF_PACKED Block {
    uint16_t d, m;
    uint32_t qh;
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 24);
  static RF_INLINE void scales(const Block& b, float* scale, float* min) {
    scale[0] = half_to_float(b.d);
    min[0] = half_to_float(b.m);
  }
  static RF_INLINE u8x32 codes(const Block& b, int) {
    return nibbles(b.qs) | (expand_bits(b.qh) & 16);
  }
};

struct Q8_0 : Trait<8, 32, 32, 128, false, true> {
  struct RF_PACKED Block {
    uint16_t d;
    uint8_t qs[32];
  };
  static_assert(sizeof(Block) == 34);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    scale[0] = half_to_float(b.d);
  }
  static RF_INLINE u8x32 codes(const Block& b, int) { return from_signed(load<u8x32>(b.qs)); }
};

struct Q8_1 : Trait<9, 32, 32, 128, false, true> {
  struct RF_PACKED Block {
    uint16_t d;
    uint16_t s;  // d times the sum of the codes; not needed for the weights
    uint8_t qs[32];
  };
  static_assert(sizeof(Block) == 36);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    scale[0] = half_to_float(b.d);
  }
  static RF_INLINE u8x32 codes(const Block& b, int) { return from_signed(load<u8x32>(b.qs)); }
};

struct Q8_K : Trait<15, 256, 32, 128, false, true> {
  struct RF_PACKED Block {
    float d;
    uint8_t qs[256];
    int16_t sums[16];  // of 16 codes each; not needed for the weights
  };
  static_assert(sizeof(Block) == 292);
  static RF_INLINE void scales(const Block& b, float* scale, float*) { fill<8>(scale, b.d); }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    return from_signed(load<u8x32>(b.qs + 32 * i));
  }
};

struct Q1_0 : Trait<41, 128, 32, 1> {
  struct RF_PACKED Block {
    uint16_t d;
    uint32_t bits[4];  // set: +d, clear: -d
  };
  static_assert(sizeof(Block) == 18);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    fill<4>(scale, half_to_float(b.d));
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) { return expand_bits(b.bits[i]) & 2; }
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
