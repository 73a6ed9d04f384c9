// float32 arithmetic with a fixed order, the twin of the reference's rounding.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

namespace rocmforge::cpu {

template <typename To, typename From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  std::memcpy(&to, &from, sizeof(to));
  return to;
}

// Rounds to float16, nearest even; overflow gives infinity.
inline uint16_t half_bits(float value) {
  const uint32_t bits = bit_cast<uint32_t>(value);
  const uint32_t sign = bits >> 16 & 0x8000;
  uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return static_cast<uint16_t>(sign | 0x7E00);
  if (magnitude >= 0x477FF000) return static_cast<uint16_t>(sign | 0x7C00);
  if (magnitude < 0x38800000) {
    // Subnormal: beside 0.5, a float's last bit is float16's smallest number.
    const float shifted = bit_cast<float>(magnitude) + 0.5f;
    return static_cast<uint16_t>(sign | (bit_cast<uint32_t>(shifted) - bit_cast<uint32_t>(0.5f)));
  }
  magnitude += 0xFFF + (magnitude >> 13 & 1) - ((127u - 15u) << 23);
  return static_cast<uint16_t>(sign | magnitude >> 13);
}

// The value of a finite float16.
inline float half_value(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const float magnitude = half & 0x7C00
                              ? bit_cast<float>(((half & 0x7FFFu) << 13) + ((127u - 15u) << 23))
                              : static_cast<float>(half & 0x3FF) * 0x1p-24f;
  return bit_cast<float>(bit_cast<uint32_t>(magnitude) | sign);
}

inline void store_half(float value, uint8_t* out) {
  const uint16_t bits = half_bits(value);
  std::memcpy(out, &bits, sizeof(bits));
}

inline float reciprocal(float d) { return d == 0.0f ? 0.0f : 1.0f / d; }

inline float clamp(float x, float low, float high) {
  const float above = x < low ? low : x;
  return above > high ? high : above;
}

// Rounds to the nearest integer, halves to even, for magnitudes below 2^22.
inline float round_even(float x) { return (x + 0x1.8p23f) - 0x1.8p23f; }

inline uint8_t truncate(float x, int limit) {
  const int code = x >= 0.0f && x < 256.0f ? static_cast<int>(x) : 0;
  return static_cast<uint8_t>(code < limit ? code : limit);
}

inline int to_int8(float x) { return std::fabs(x) <= 127.0f ? static_cast<int>(x) : 0; }

// Sums by halves; N is a power of two.
template <int N>
inline float tree_sum(const float* x) {
  if constexpr (N == 1) {
    return x[0];
  } else {
    float half[N / 2];
    for (int i = 0; i < N / 2; ++i) half[i] = x[i] + x[i + N / 2];
    return tree_sum<N / 2>(half);
  }
}

// The first element of largest magnitude, with its sign.
inline float largest(const float* x, int n) {
  float found = x[0];
  for (int i = 1; i < n; ++i) {
    if (std::fabs(x[i]) > std::fabs(found)) found = x[i];
  }
  return found;
}

inline float largest_magnitude(const float* x, int n) { return std::fabs(largest(x, n)); }

}  // namespace rocmforge::cpu
