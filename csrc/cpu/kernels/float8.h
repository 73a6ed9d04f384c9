// Elements of torch's float8_e4m3fn and float8_e5m2 tensors as vectors of float32, and back.
//
// OCP 8-bit floating point, revision 1.0: e4m3 has the bias 7 and no infinity, its largest
// magnitude is NaN; e5m2 is the upper half of a float16.
#pragma once

#include "common/cache_type.h"
#include "cpu/kernels/half.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

struct E4M3 {
  uint8_t bits;
};

struct E5M2 {
  uint8_t bits;
};

using u8xL = Vec<uint8_t, kLanes>;

// Calls f with a value of the element of a cache without blocks.
template <typename F>
RF_INLINE void with_plain_cache(CacheType type, F f) {
  switch (type) {
    case CacheType::kFloat32:
      return f(float{});
    case CacheType::kFloat16:
      return f(Half{});
    case CacheType::kBFloat16:
      return f(BFloat16{});
    case CacheType::kE4M3:
      return f(E4M3{});
    case CacheType::kE5M2:
      return f(E5M2{});
    case CacheType::kQ8_0:
    case CacheType::kQ4_0:
      return;
  }
}

RF_INLINE f32xW load_floats(const E4M3* p) {
  const u32xW bytes = __builtin_convertvector(load<u8xL>(p), u32xW), magnitude = bytes & 0x7F;
  // As float32 bits the exponent is 2^120 too small, for subnormals too.
  const u32xW value = (u32xW)((f32xW)(magnitude << 20) * 0x1p120f);
  const u32xW nan = splat<u32xW>(0x7FC00000u);
  return (f32xW)((magnitude == 0x7F ? nan : value) | (bytes & 0x80) << 24);
}

RF_INLINE f32xW load_floats(const E5M2* p) {
  const u32xW bytes = __builtin_convertvector(load<u8xL>(p), u32xW), magnitude = bytes & 0x7F;
  const u32xW value = (u32xW)((f32xW)(magnitude << 21) * 0x1p112f);
  const u32xW special = magnitude << 21 | 0x7F800000u;
  return (f32xW)((magnitude >= 0x7C ? special : value) | (bytes & 0x80) << 24);
}

// Rounds magnitudes to the nearest number with `Mantissa` bits behind the point and exponents from
// `Least` on, ties to even; a magnitude that is too large has bits above the format's.
template <int Mantissa, int Least>
RF_INLINE u32xW round_magnitudes(u32xW bits) {
  constexpr int kDropped = 23 - Mantissa;
  constexpr uint32_t kSmallestNormal = static_cast<uint32_t>(127 + Least) << 23;
  // Beside this number the last bit of a float32 is the format's smallest number.
  constexpr uint32_t kBeside = static_cast<uint32_t>(127 + Least + kDropped) << 23;
  const u32xW beside = splat<u32xW>(kBeside);
  const u32xW small = (u32xW)((f32xW)bits + (f32xW)beside) - kBeside;
  const u32xW rebased = bits - kSmallestNormal + (1u << 23);
  const u32xW normal =
      (rebased + ((1u << (kDropped - 1)) - 1) + (bits >> kDropped & 1)) >> kDropped;
  return bits < kSmallestNormal ? small : normal;
}

template <typename T, int Mantissa, int Least>
RF_INLINE void store_float8(T* p, f32xW v, uint32_t largest) {
  const u32xW bits = (u32xW)v & 0x7FFFFFFF, sign = (u32xW)v >> 24 & 0x80;
  const u32xW rounded = round_magnitudes<Mantissa, Least>(bits), most = splat<u32xW>(largest);
  const u32xW nan = splat<u32xW>(0x7Fu);
  const u32xW code = bits > 0x7F800000 ? nan : (rounded < most ? rounded : most);
  store(p, __builtin_convertvector(code | sign, u8xL));
}

// Too large numbers become the largest, 448, as in torch from 2.13 on.
RF_INLINE void store_floats(E4M3* p, f32xW v) { store_float8<E4M3, 3, -6>(p, v, 0x7E); }
// Too large numbers become infinite.
RF_INLINE void store_floats(E5M2* p, f32xW v) { store_float8<E5M2, 2, -14>(p, v, 0x7C); }

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
