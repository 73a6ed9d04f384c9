// TQ1_0 and TQ2_0: ternary weights with one scale per 256.
#pragma once

#include "cpu/quants/traits.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

// The top ternary digit of bytes that hold base-3 fractions of 256: byte * 3 >> 8.
template <typename V>
RF_INLINE V ternary_digit(V bytes) {
  return V{} - (V)(bytes > 85) - (V)(bytes > 170);
}

// The byte with its first `count` digits shifted out.
template <typename V>
RF_INLINE V skip_digits(V bytes, int count) {
  for (int i = 0; i < count; ++i) bytes = bytes + bytes + bytes;
  return bytes;
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
    if (i < 5) return ternary_digit(skip_digits(load<u8x32>(b.qs), i));
    const u8x16 tail = load<u8x16>(b.tail);
    if (i < 7)
      return ternary_digit(concat(skip_digits(tail, 2 * i - 10), skip_digits(tail, 2 * i - 9)));
    const u8x16 last = (u8x16)splat<u32x4>(load<uint32_t>(b.last));
    const u8x16 powers = {1, 1, 1, 1, 3, 3, 3, 3, 9, 9, 9, 9, 27, 27, 27, 27};
    return ternary_digit(concat(skip_digits(tail, 4), last * powers));
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
