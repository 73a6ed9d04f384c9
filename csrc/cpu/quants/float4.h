// MXFP4 and NVFP4: e2m1 values, kept doubled so that they are integers, under a halved scale.
#pragma once

#include "cpu/quants/traits.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

// kvalues_e2m1 as codes with offset 12.
inline constexpr uint8_t kE2m1Codes[16] = {12, 13, 14, 15, 16, 18, 20, 24,
                                           12, 11, 10, 9,  8,  6,  4,  0};

struct MXFP4 : Trait<39, 32, 32, 12> {
  struct RF_PACKED Block {
    uint8_t e;  // the scale's exponent: half the scale is 2^(e - 128), subnormal for 0 and 1
    uint8_t qs[16];
  };
  static_assert(sizeof(Block) == 17);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    const uint32_t e = b.e;
    scale[0] = bits_to_float(e < 2 ? 0x00200000u << e : (e - 1) << 23);
  }
  static RF_INLINE u8x32 codes(const Block& b, int) { return look_up(kE2m1Codes, nibbles(b.qs)); }
};

struct NVFP4 : Trait<40, 64, 16, 12> {
  struct RF_PACKED Block {
    uint8_t d[4];
    uint64_t qs[4];  // element i of 16 in the low half of byte i, element i + 8 in the high half
  };
  static_assert(sizeof(Block) == 36);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    for (int i = 0; i < 4; ++i) scale[i] = ue4m3_half[b.d[i]];
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    const uint64_t first = b.qs[2 * i], second = b.qs[2 * i + 1];
    return look_up(kE2m1Codes, (u8x32)u64x4{first, first >> 4, second, second >> 4} & 15);
  }
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
