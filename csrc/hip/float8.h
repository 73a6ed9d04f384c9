// 8-bit floats in integer arithmetic: the same bits on every card, whatever its instructions are.
//
// OCP 8-bit floating point, revision 1.0: e4m3 has the bias 7 and no infinity, its largest
// magnitude is NaN; e5m2 is the upper half of a float16.
#pragma once

#include "hip/convert.h"

namespace rocmforge::gpu {

struct E4M3 {
  uint8_t bits;
};

struct E5M2 {
  uint8_t bits;
};

// The lowest byte's value.
__device__ __forceinline__ float e4m3_to_float(uint32_t byte) {
  const uint32_t magnitude = byte & 0x7f, sign = (byte & 0x80) << 24;
  // As float32 bits the exponent is 2^120 too small, for subnormals too.
  const float value = __uint_as_float(magnitude << 20) * 0x1p120f;
  return __uint_as_float((magnitude == 0x7f ? 0x7fc00000 : __float_as_uint(value)) | sign);
}

__device__ __forceinline__ float e5m2_to_float(uint32_t byte) {
  return __half2float(__ushort_as_half(static_cast<uint16_t>(byte << 8)));
}

// Rounds to the nearest number with `Mantissa` bits behind the point and exponents from `Least`
// on, ties to even; a magnitude that is too large has bits above the format's.
template <int Mantissa, int Least>
__device__ __forceinline__ uint32_t round_magnitude(uint32_t bits) {
  constexpr int kDropped = 23 - Mantissa;
  constexpr uint32_t kSmallestNormal = static_cast<uint32_t>(127 + Least) << 23;
  if (bits < kSmallestNormal) {
    // Beside this number the last bit of a float32 is the format's smallest number.
    constexpr uint32_t kBeside = static_cast<uint32_t>(127 + Least + kDropped) << 23;
    const float sum = add_rn(__uint_as_float(bits), __uint_as_float(kBeside));
    return __float_as_uint(sum) - kBeside;
  }
  const uint32_t odd = bits >> kDropped & 1;
  const uint32_t rebased = bits - kSmallestNormal + (1u << 23);
  return (rebased + (1u << (kDropped - 1)) - 1 + odd) >> kDropped;
}

// Magnitudes beyond `kLargest` become it.
template <int Mantissa, int Least, uint32_t kLargest>
__device__ __forceinline__ uint8_t float8_bits(float x) {
  const uint32_t sign = __float_as_uint(x) >> 24 & 0x80, bits = __float_as_uint(x) & 0x7fffffff;
  uint32_t code = 0x7f;  // NaN
  if (bits <= 0x7f800000) {
    code = round_magnitude<Mantissa, Least>(bits);
    code = code < kLargest ? code : kLargest;
  }
  return static_cast<uint8_t>(code | sign);
}

// Too large numbers become the largest, 448, as in torch from 2.13 on.
template <>
__device__ __forceinline__ E4M3 from_float<E4M3>(float x) {
  return {float8_bits<3, -6, 0x7e>(x)};
}

// Too large numbers become infinite.
template <>
__device__ __forceinline__ E5M2 from_float<E5M2>(float x) {
  return {float8_bits<2, -14, 0x7c>(x)};
}

__device__ __forceinline__ float to_float(E4M3 x) { return e4m3_to_float(x.bits); }
__device__ __forceinline__ float to_float(E5M2 x) { return e5m2_to_float(x.bits); }

}  // namespace rocmforge::gpu
