// TQ1_0, TQ2_0, MXFP4, NVFP4.
#include "common/codebooks.h"
#include "cpu/quantize/arithmetic.h"
#include "cpu/quantize/blocks.h"

namespace rocmforge::cpu {

static void ternary_codes(const float* x, uint8_t* scale, uint8_t (&q)[256]) {
  const float d = largest_magnitude(x, 256);
  const float inverse = reciprocal(d);
  for (int i = 0; i < 256; ++i) {
    q[i] = static_cast<uint8_t>(to_int8(std::round(x[i] * inverse)) + 1);
  }
  store_half(d, scale);
}

// `Count` ternary digits a byte, `stride` elements apart, as the fraction of 256 that they are.
template <int Count>
static void pack_digits(const uint8_t* q, int stride, uint8_t* out) {
  for (int i = 0; i < stride; ++i) {
    int number = 0;
    for (int digit = 0; digit < 5; ++digit) {
      number = 3 * number + (digit < Count ? q[digit * stride + i] : 0);
    }
    out[i] = static_cast<uint8_t>((number * 256 + 242) / 243);
  }
}

void quantize_tq1_0(const float* x, uint8_t* out) {
  uint8_t q[256];
  ternary_codes(x, out + 52, q);
  pack_digits<5>(q, 32, out);
  pack_digits<5>(q + 160, 16, out + 32);
  pack_digits<4>(q + 240, 4, out + 48);
}

void quantize_tq2_0(const float* x, uint8_t* out) {
  uint8_t q[256];
  ternary_codes(x, out + 64, q);
  pack_strided<2, 32>(q, 256, out);
}

// The code of the level scale * kvalue nearest to x, the first of equals.
static uint8_t nearest_e2m1(float x, float scale) {
  int code = 0;
  float least = std::fabs(x);
  for (int i = 1; i < 16; ++i) {
    const float error = std::fabs(scale * kvalues_e2m1[i] - x);
    if (error < least) {
      code = i;
      least = error;
    }
  }
  return static_cast<uint8_t>(code);
}

static float e8m0_half(uint8_t code) {
  return bit_cast<float>(code < 2 ? 0x00200000u << code : (code - 1u) << 23);
}

void quantize_mxfp4(const float* x, uint8_t* out) {
  const float amax = largest_magnitude(x, 32);
  // In double, rounded to float: just below a power of two this is that power, as it is in ggml.
  const float exponent =
      amax > 0.0f && std::isfinite(amax)
          ? std::floor(static_cast<float>(std::log2(static_cast<double>(amax)))) - 2 + 127
          : 0.0f;
  out[0] = static_cast<uint8_t>(static_cast<int>(exponent));
  const float scale = e8m0_half(out[0]);
  uint8_t q[32];
  for (int i = 0; i < 32; ++i) q[i] = nearest_e2m1(x[i], scale);
  pack_strided<4, 16>(q, 32, out + 1);
}

// Unsigned e4m3 as ggml rounds it: halves up, and all from 248 on is the largest number, 448.
static uint8_t ue4m3_code(float x) {
  if (!(x < 248.0f)) return 0x7E;
  const int32_t bits = bit_cast<int32_t>(x);
  if (bits >> 23 > 127 - 7) return static_cast<uint8_t>(((bits + (1 << 19)) >> 20) - (120 << 3));
  const int subnormal = static_cast<int>(x * 512.0f + 0.5f);
  return static_cast<uint8_t>(subnormal < 7 ? subnormal : 7);
}

void quantize_nvfp4(const float* x, uint8_t* out) {
  for (int group = 0; group < 4; ++group, x += 16) {
    out[group] = ue4m3_code(largest_magnitude(x, 16) / 6.0f);
    const float scale = ue4m3_half[out[group]];
    uint8_t q[16];
    for (int i = 0; i < 16; ++i) q[i] = nearest_e2m1(x[i], scale);
    pack_strided<4, 8>(q, 16, out + 4 + 8 * group);
  }
}

}  // namespace rocmforge::cpu
