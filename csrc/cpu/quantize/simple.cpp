// F32, F16, BF16, Q4_0 to Q8_1, Q8_K, Q1_0.
#include "cpu/quantize/arithmetic.h"
#include "cpu/quantize/blocks.h"

namespace rocmforge::cpu {

void quantize_f32(const float* x, uint8_t* out) { std::memcpy(out, x, sizeof(float)); }

void quantize_f16(const float* x, uint8_t* out) { store_half(*x, out); }

void quantize_bf16(const float* x, uint8_t* out) {
  const uint32_t bits = bit_cast<uint32_t>(*x);
  // Nearest even; a NaN stays the NaN that it was, made quiet.
  const uint32_t rounded = std::isnan(*x) ? bits | 0x400000 : bits + 0x7FFF + (bits >> 16 & 1);
  const uint16_t high = static_cast<uint16_t>(rounded >> 16);
  std::memcpy(out, &high, sizeof(high));
}

template <int Zero>
static void codes_around_zero(const float* x, uint8_t* out, uint8_t (&q)[32]) {
  const float d = largest(x, 32) / -Zero;
  const float inverse = reciprocal(d);
  for (int i = 0; i < 32; ++i) q[i] = truncate(x[i] * inverse + (Zero + 0.5f), 2 * Zero - 1);
  store_half(d, out);
}

template <int Levels>
static void codes_above_minimum(const float* x, uint8_t* out, uint8_t (&q)[32]) {
  float low = x[0], high = x[0];  // of -0 and +0 the last counts
  for (int i = 1; i < 32; ++i) {
    if (x[i] <= low) low = x[i];
    if (x[i] >= high) high = x[i];
  }
  const float d = (high - low) / (Levels - 1);
  const float inverse = reciprocal(d);
  for (int i = 0; i < 32; ++i) q[i] = truncate((x[i] - low) * inverse + 0.5f, Levels - 1);
  store_half(d, out);
  store_half(low, out + 2);
}

static void pack_five_bits(uint8_t (&q)[32], uint8_t* out) {
  uint8_t high[32];
  for (int i = 0; i < 32; ++i) {
    high[i] = q[i] >> 4;
    q[i] &= 15;
  }
  pack_strided<1, 1>(high, 32, out);
  pack_strided<4, 16>(q, 32, out + 4);
}

void quantize_q4_0(const float* x, uint8_t* out) {
  uint8_t q[32];
  codes_around_zero<8>(x, out, q);
  pack_strided<4, 16>(q, 32, out + 2);
}

void quantize_q4_1(const float* x, uint8_t* out) {
  uint8_t q[32];
  codes_above_minimum<16>(x, out, q);
  pack_strided<4, 16>(q, 32, out + 4);
}

void quantize_q5_0(const float* x, uint8_t* out) {
  uint8_t q[32];
  codes_around_zero<16>(x, out, q);
  pack_five_bits(q, out + 2);
}

void quantize_q5_1(const float* x, uint8_t* out) {
  uint8_t q[32];
  codes_above_minimum<32>(x, out, q);
  pack_five_bits(q, out + 4);
}

// Returns scale times the sum of the codes.
static float codes_of_8_bits(const float* x, uint8_t* scale, uint8_t* codes) {
  const float d = largest_magnitude(x, 32) / 127.0f;
  const float inverse = reciprocal(d);
  int sum = 0;
  for (int i = 0; i < 32; ++i) {
    const int q = to_int8(std::round(x[i] * inverse));
    codes[i] = static_cast<uint8_t>(q);
    sum += q;
  }
  store_half(d, scale);
  return static_cast<float>(sum) * d;
}

void quantize_q8_0(const float* x, uint8_t* out) { codes_of_8_bits(x, out, out + 2); }

void quantize_q8_1(const float* x, uint8_t* out) {
  store_half(codes_of_8_bits(x, out, out + 4), out + 2);
}

void quantize_q8_k(const float* x, uint8_t* out) {
  float inverse = -127.0f / largest(x, 256);
  if (std::isinf(inverse)) inverse = 0.0f;
  const float d = reciprocal(inverse);
  std::memcpy(out, &d, sizeof(d));
  for (int group = 0; group < 16; ++group) {
    int16_t sum = 0;
    for (int i = 16 * group; i < 16 * group + 16; ++i) {
      const int q = to_int8(std::nearbyint(x[i] * inverse));
      out[4 + i] = static_cast<uint8_t>(q);
      sum = static_cast<int16_t>(sum + q);
    }
    std::memcpy(out + 260 + 2 * group, &sum, sizeof(sum));
  }
}

void quantize_q1_0(const float* x, uint8_t* out) {
  float total = 0.0f;
  uint8_t bits[128];
  for (int i = 0; i < 128; ++i) {
    total += std::fabs(x[i]);
    bits[i] = x[i] >= 0.0f;
  }
  store_half(total / 128.0f, out);
  pack_strided<1, 1>(bits, 128, out + 2);
}

}  // namespace rocmforge::cpu
