// The vector operations that the quantized kernels are written with.
//
// Arithmetic is written with the compilers' vector types, which exist on every processor; what they
// cannot say (byte dot products, table look-up, bit expansion) has an AVX form and a plain loop.
// Everything lives in the namespace of the instruction set that the file is compiled for.
#pragma once

#include <cstdint>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#define RF_INLINE inline __attribute__((always_inline))
#define RF_INLINE_LAMBDA __attribute__((always_inline))

namespace rocmforge::cpu::ROCMFORGE_ISA {

#if defined(__AVX512VNNI__)
inline constexpr int kLanes = 16;  // 32-bit lanes of the widest register
inline constexpr bool kHasVnni = true;
#else
inline constexpr int kLanes = 8;
inline constexpr bool kHasVnni = false;
#endif

template <typename T, int N>
struct VectorOf {
  typedef T type __attribute__((vector_size(N * sizeof(T))));
};
template <typename T, int N>
using Vec = typename VectorOf<T, N>::type;

using u8x16 = Vec<uint8_t, 16>;
using u16x8 = Vec<uint16_t, 8>;
using u32x4 = Vec<uint32_t, 4>;
using u8x32 = Vec<uint8_t, 32>;
using u16x16 = Vec<uint16_t, 16>;
using i8x32 = Vec<int8_t, 32>;
using u64x2 = Vec<uint64_t, 2>;
using u64x4 = Vec<uint64_t, 4>;
using i32x8 = Vec<int32_t, 8>;
using f32x8 = Vec<float, 8>;

// The widest registers: 32-bit lanes, and the bytes in them.
using i32xW = Vec<int32_t, kLanes>;
using f32xW = Vec<float, kLanes>;
using u8xW = Vec<uint8_t, 4 * kLanes>;

// Unaligned loads and stores.
template <typename V>
RF_INLINE V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof(V));
  return v;
}

template <typename V>
RF_INLINE void store(void* p, const V& v) {
  __builtin_memcpy(p, &v, sizeof(V));
}

template <typename V, typename T>
RF_INLINE V splat(T value) {
  return value - V{};  // and not V{} + value, which would turn -0 into 0
}

RF_INLINE float bits_to_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, 4);
  return value;
}

RF_INLINE uint32_t float_to_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, 4);
  return bits;
}

RF_INLINE float half_to_float(uint16_t h) {
#if defined(__F16C__)
  return _cvtsh_ss(h);
#else
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000) << 16;
  const uint32_t magnitude = h & 0x7FFF;
  if (magnitude >= 0x7C00) return bits_to_float(sign | 0x70000000 | magnitude << 13);
  // Exponent and mantissa moved into place are the value times 2^-112, subnormals included.
  const float scaled = bits_to_float(magnitude << 13) * bits_to_float(0x77800000);
  return bits_to_float(sign | float_to_bits(scaled));
#endif
}

// a * b + c; fused where the processor can.
RF_INLINE f32x8 fma(const f32x8& a, const f32x8& b, const f32x8& c) {
#if defined(__FMA__)
  return _mm256_fmadd_ps(a, b, c);
#else
  return a * b + c;
#endif
}

#if defined(__AVX512F__)
RF_INLINE f32xW fma(f32xW a, f32xW b, f32xW c) { return _mm512_fmadd_ps(a, b, c); }
#endif

RF_INLINE f32x8 to_float(i32x8 v) { return __builtin_convertvector(v, f32x8); }

#if defined(__AVX512F__)
RF_INLINE f32xW to_float(i32xW v) { return __builtin_convertvector(v, f32xW); }
#endif

// 8 bytes of memory, of type Number, as 32-bit integers.
template <typename Number>
RF_INLINE i32x8 widen(const void* p) {
#if defined(__AVX2__)
  const __m128i bytes = _mm_loadl_epi64(static_cast<const __m128i*>(p));
  constexpr bool kSigned = static_cast<Number>(-1) < 0;
  return (i32x8)(kSigned ? _mm256_cvtepi8_epi32(bytes) : _mm256_cvtepu8_epi32(bytes));
#else
  i32x8 v;
  for (int i = 0; i < 8; ++i) v[i] = static_cast<const Number*>(p)[i];
  return v;
#endif
}

// The sum of the lanes, always in the same order.
RF_INLINE float sum(f32x8 v) {
#if defined(__AVX2__)
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_shuffle_ps(s, s, 1)));
#else
  return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
#endif
}

#if defined(__AVX512F__)
RF_INLINE float sum(f32xW v) {
  f32x8 half[2];
  __builtin_memcpy(half, &v, sizeof(v));
  return sum(half[0] + half[1]);
}
#endif

RF_INLINE u8x32 concat(u8x16 low, u8x16 high) {
#if defined(__AVX2__)
  return (u8x32)_mm256_set_m128i((__m128i)high, (__m128i)low);
#else
  const u8x16 half[2] = {low, high};
  return load<u8x32>(half);
#endif
}

// table[index], index < 16.
RF_INLINE u8x32 look_up(const uint8_t* table, u8x32 index) {
#if defined(__AVX2__)
  const __m256i both = _mm256_broadcastsi128_si256((__m128i)load<u8x16>(table));
  return (u8x32)_mm256_shuffle_epi8(both, (__m256i)index);
#else
  uint8_t bytes[32];
  store(bytes, index);
  for (int i = 0; i < 32; ++i) bytes[i] = table[bytes[i]];
  return load<u8x32>(bytes);
#endif
}

// Byte i is 0xFF where bit i is set, else 0.
RF_INLINE u8x32 expand_bits(uint32_t bits) {
  [[maybe_unused]] const uint64_t each = 0x8040201008040201, ones = 0x0101010101010101;
#if defined(__AVX512VL__)
  return (u8x32)_mm256_movm_epi8(bits);
#elif defined(__AVX2__)
  const __m256i spread = _mm256_setr_epi64x(0, ones, 2 * ones, 3 * ones);
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(bits), spread);
  const __m256i bit = _mm256_set1_epi64x(each);
  return (u8x32)_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit);
#else
  // In halves: comparisons of more than a register holds are done byte by byte.
  u8x16 half[2];
  for (int i = 0; i < 2; ++i, bits >>= 16) {
    const u64x2 bytes = u64x2{bits & 255, bits >> 8 & 255} * ones;
    half[i] = (u8x16)((u8x16)(bytes & each) != 0);
  }
  return concat(half[0], half[1]);
#endif
}

// Whether codes that use all 8 bits are multiplied as signed numbers (code - 128): without VNNI the
// byte product saturates at 16 bits.
inline constexpr bool kWideIsSigned = !kHasVnni;

// Lane i of the result is start[i] plus the dot product of bytes 4i to 4i+3: unsigned codes times
// signed activations. Codes are below 128 unless `Wide`; see kWideIsSigned.
template <bool Wide>
RF_INLINE i32x8 dot4(i32x8 start, u8x32 codes, i8x32 x) {
#if defined(__AVX512VNNI__)
  return (i32x8)_mm256_dpbusd_epi32((__m256i)start, (__m256i)codes, (__m256i)x);
#elif defined(__AVX2__)
  __m256i u = (__m256i)codes, s = (__m256i)x;
  if (Wide) {
    const __m256i w = (__m256i)(codes ^ 0x80);
    u = _mm256_abs_epi8(w);
    s = _mm256_sign_epi8(s, w);
  }
  const __m256i pairs = _mm256_maddubs_epi16(u, s);
  return start + (i32x8)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
#elif defined(__SSE2__)
  // Even and odd bytes apart, in 16 bits: products of two of each are added to 32 bits.
  __m128i sums[2], u[2], s[2];
  store(u, Wide ? codes ^ 0x80 : codes);
  store(s, x);
  for (int i = 0; i < 2; ++i) {
    const __m128i even = _mm_srai_epi16(_mm_slli_epi16(u[i], 8), 8);
    const __m128i odd = _mm_srai_epi16(u[i], 8);
    const __m128i x_even = _mm_srai_epi16(_mm_slli_epi16(s[i], 8), 8);
    sums[i] =
        _mm_add_epi32(_mm_madd_epi16(even, x_even), _mm_madd_epi16(odd, _mm_srai_epi16(s[i], 8)));
  }
  return start + load<i32x8>(sums);
#else
  // Products of neighbours fit 16 bits each; the sums are taken in 32.
  using i16x16 = Vec<int16_t, 16>;
  const i16x16 xs = (i16x16)x, us = (i16x16)(Wide ? codes ^ 0x80 : codes);
  const i16x16 low = ((us << 8) >> 8) * ((xs << 8) >> 8), high = (us >> 8) * (xs >> 8);
  const i32x8 a = (i32x8)low, b = (i32x8)high;
  return start + ((a << 16) >> 16) + (a >> 16) + ((b << 16) >> 16) + (b >> 16);
#endif
}

#if defined(__AVX512VNNI__)
template <bool Wide>
RF_INLINE i32xW dot4(i32xW start, u8xW codes, i32xW x) {
  return (i32xW)_mm512_dpbusd_epi32((__m512i)start, (__m512i)codes, (__m512i)x);
}
#else
template <bool Wide>
RF_INLINE i32xW dot4(i32xW start, u8xW codes, i32xW x) {
  return dot4<Wide>(start, codes, (i8x32)x);
}
#endif

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
