// What a quantization type has to say to get every CPU kernel.
//
// A trait has
//   Block            the layout in the file, packed: blocks have no alignment
//   kType            GGML's type number
//   kBlock           weights in a block
//   kSub             weights that share a scale: 16 or 32 (a larger group repeats its scale)
//   kOffset, kMins   weight = scale * (code - kOffset), plus a minimum per scale if kMins
//   kWide            codes use all 8 bits (else they are below 128)
//   scales(block, scale, min)   the kBlock / kSub scales (and minima) in float
//   codes(block, i)             codes of weights 32 i to 32 i + 31, in order
// Every product and sum here that ends in a weight is rounded as gguf-py's numpy code rounds it.
#pragma once

#include "common/codebooks.h"
#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

template <int Type, int Size, int Sub, int Offset, bool Mins = false, bool Wide = false>
struct Trait {
  static constexpr int kType = Type;
  static constexpr int kBlock = Size;
  static constexpr int kSub = Sub;
  static constexpr int kOffset = Offset;
  static constexpr bool kMins = Mins;
  static constexpr bool kWide = Wide;
};

// 32 nibbles: element i in the low half of byte i, element i + 16 in the high half.
RF_INLINE u8x32 nibbles(const uint8_t* qs) {
  const u8x16 q = load<u8x16>(qs);
  return concat(q, (u8x16)((u16x8)q >> 4)) & 15;
}

// Bits [From, From + Width) of 32 neighbouring bytes, moved to bit To. 16-bit shifts serve for
// bytes: what crosses from one to its neighbour lands outside the field.
template <int Width, int To = 0>
RF_INLINE u8x32 field(const uint8_t* bytes, int from) {
  const u16x16 q = load<u16x16>(bytes);
  const u16x16 moved =
      from > To ? q >> static_cast<uint16_t>(from - To) : q << static_cast<uint16_t>(To - from);
  return (u8x32)moved & uint8_t{((1 << Width) - 1) << To};
}

// Signed bytes as codes with offset 128.
RF_INLINE u8x32 from_signed(u8x32 bytes) { return bytes ^ 0x80; }

template <int Count>
RF_INLINE void fill(float* out, float value) {
  for (int i = 0; i < Count; ++i) out[i] = value;
}

// Eight numbers of 4 bits, low first, as the bytes of a word.
RF_INLINE uint64_t spread_nibbles(uint32_t packed) {
  uint64_t x = packed;
  x = (x | x << 16) & 0x0000FFFF0000FFFF;
  x = (x | x << 8) & 0x00FF00FF00FF00FF;
  return (x | x << 4) & 0x0F0F0F0F0F0F0F0F;
}

// Eight bytes in a word, of type Number, as floats. Scales are computed from words: numbers that
// are stored one by one cannot be loaded as a vector without a stall.
template <typename Number = uint8_t>
RF_INLINE f32x8 numbers(uint64_t word) {
  return to_float(widen<Number>(&word));
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA

#define RF_PACKED __attribute__((packed))
