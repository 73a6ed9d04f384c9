// TQ1_0 and TQ2_0: ternary weights with one scale per 256.
#pragma once

#include "cpu/quants/traits.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

// The top ternary digit of bytes that hold base-3 fractions of 256: byte * 3 >> 8.
template <typename V>
RF_INLINE V ternary_digit(V bytes) {
  return V{} - (V)(bytes > 85) - (V)(bytes > 170);
}

struct TQ1_0 : Trait<34, 256, 32, 1> {
  struct RF_PACKED Block {
    uint8_t qs[32];    // digit t of byte j: element 32 t + j
    uint8_t tail[16];  // digit t of byte j: element 160 + 16 t + j
    uint8_t last[4];   // digit t of byte j: element 240 + 4 t + j
    uint16_t d;
  };
  static_assert(sizeof(Block) == 54);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    fill<8>(scale, half_to_float(b.d));
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    constexpr uint8_t kPower[5] = {1, 3, 9, 27, 81};
    if (i < 5) return ternary_digit(load<u8x32>(b.qs) * kPower[i]);
    const u8x16 tail = load<u8x16>(b.tail);
    if (i < 7) return ternary_digit(concat(tail * kPower[2 * i - 10], tail * kPower[2 * i - 9]));
    uint8_t last[16];
    for (int j = 0; j < 16; ++j) last[j] = b.last[j % 4] * kPower[j / 4];
    return ternary_digit(concat(tail * kPower[4], load<u8x16>(last)));
  }
};

struct TQ2_0 : Trait<35, 256, 32, 1> {
  struct RF_PACKED Block {
    uint8_t qs[64];
    uint16_t d;
  };
  static_assert(sizeof(Block) == 66);
  static RF_INLINE void scales(const Block& b, float* scale, float*) {
    fill<8>(scale, half_to_float(b.d));
  }
  static RF_INLINE u8x32 codes(const Block& b, int i) {
    return field<2>(b.qs + i / 4 * 32, 2 * (i % 4));
  }
};

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
