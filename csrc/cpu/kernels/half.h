// Elements of float32, float16 and bfloat16 tensors as vectors of float32, and back.
#pragma once

#include "cpu/kernels/dtype.h"
#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

struct Half {
  uint16_t bits;
};

struct BFloat16 {
  uint16_t bits;
};

using u16xW = Vec<uint16_t, kLanes>;
using u32xW = Vec<uint32_t, kLanes>;

// Calls f with a value of the type's element.
template <typename F>
RF_INLINE void with_element(DType dtype, F f) {
  switch (dtype) {
    case DType::kFloat32:
      return f(float{});
    case DType::kFloat16:
      return f(Half{});
    case DType::kBFloat16:
      return f(BFloat16{});
  }
}

// kLanes elements as float32.

RF_INLINE f32xW load_floats(const float* p) { return load<f32xW>(p); }

RF_INLINE f32xW load_floats(const Half* p) {
#if defined(__AVX512F__)
  return _mm512_cvtph_ps((__m256i)load<u16xW>(p));
#elif defined(__F16C__)
  return _mm256_cvtph_ps((__m128i)load<u16xW>(p));
#else
  f32xW v;
  for (int i = 0; i < kLanes; ++i) v[i] = half_to_float(p[i].bits);
  return v;
#endif
}

RF_INLINE f32xW load_floats(const BFloat16* p) {
  return (f32xW)(__builtin_convertvector(load<u16xW>(p), u32xW) << 16);
}

// Float32 rounded to the nearest element, ties to even.

RF_INLINE void store_floats(float* p, f32xW v) { store(p, v); }

RF_INLINE uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value), sign = bits >> 16 & 0x8000,
                 magnitude = bits << 1 >> 1;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);   // NaN
  if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);  // from 65520 on
  if (magnitude < 0x38800000) {
    // Subnormal: adding 0.5 leaves the value in units of 2^-24 in the last bits, rounded.
    const float rounded = bits_to_float(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (float_to_bits(rounded) - 0x3F000000));
  }
  const uint32_t odd = magnitude >> 13 & 1;
  return static_cast<uint16_t>(sign | ((magnitude - 0x38000000 + 0xFFF + odd) >> 13));
}

RF_INLINE void store_floats(Half* p, f32xW v) {
#if defined(__AVX512F__)
  store(p, (u16xW)_mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#elif defined(__F16C__)
  store(p, (u16xW)_mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT));
#else
  for (int i = 0; i < kLanes; ++i) p[i].bits = float_to_half(v[i]);
#endif
}

RF_INLINE void store_floats(BFloat16* p, f32xW v) {
  const u32xW bits = (u32xW)v;
  const u32xW rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16;
  const u32xW nan = splat<u32xW>(0x7FC0u);
  store(p, __builtin_convertvector(v == v ? rounded : nan, u16xW));
}

// The same for the first n < kLanes elements; the other lanes are zero, or not stored.

template <typename T>
RF_INLINE f32xW load_floats(const T* p, int64_t n) {
  T buffer[kLanes] = {};
  for (int64_t i = 0; i < n; ++i) buffer[i] = p[i];
  return load_floats(buffer);
}

template <typename T>
RF_INLINE void store_floats(T* p, f32xW v, int64_t n) {
  T buffer[kLanes];
  store_floats(buffer, v);
  for (int64_t i = 0; i < n; ++i) p[i] = buffer[i];
}

RF_INLINE float to_float(float x) { return x; }
RF_INLINE float to_float(Half x) { return half_to_float(x.bits); }
RF_INLINE float to_float(BFloat16 x) { return bits_to_float(static_cast<uint32_t>(x.bits) << 16); }

RF_INLINE void from_float(float x, float* out) { *out = x; }
RF_INLINE void from_float(float x, Half* out) { store_floats(out, splat<f32xW>(x), 1); }
RF_INLINE void from_float(float x, BFloat16* out) { store_floats(out, splat<f32xW>(x), 1); }

// out[i] = f(a[i], ...) in float32 for i < n, over one or two inputs.

template <typename T, typename F>
RF_INLINE void map(int64_t n, const T* a, const T* b, T* out, F f) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    store_floats(out + i, f(load_floats(a + i), load_floats(b + i)));
  }
  if (i < n) {
    store_floats(out + i, f(load_floats(a + i, n - i), load_floats(b + i, n - i)), n - i);
  }
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
