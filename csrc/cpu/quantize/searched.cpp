// Q2_K to Q6_K, IQ4_NL, IQ4_XS: the types whose scales are searched for.
#include "common/codebooks.h"
#include "cpu/quantize/blocks.h"
#include "cpu/quantize/search.h"

namespace rocmforge::cpu {
namespace {

template <int Count>
float nearest_whole(float y) {
  return round_even(clamp(y, -Count, Count - 1));
}

struct Q3Levels {
  static constexpr float kTargets[] = {-3.125f, -3.375f, -3.625f, -3.875f,
                                       -4.125f, -4.375f, -4.625f, -4.875f};
  static float nearest(float y) { return nearest_whole<4>(y); }
};

struct Q6Levels {
  static constexpr float kTargets[] = {-30.75f, -31.125f, -31.5f, -31.75f,
                                       -32.0f,  -32.25f,  -32.5f, -32.875f};
  static float nearest(float y) { return nearest_whole<32>(y); }
};

// The first of two levels as near is the upper one.
int iq4_code(float y) {
  int code = 0;
  for (int i = 0; i < 15; ++i) code += 2.0f * y >= kvalues_iq4nl[i] + kvalues_iq4nl[i + 1];
  return code;
}

struct Iq4Levels {
  static constexpr float kTargets[] = {-142.0f, -134.0f, -127.0f, -120.0f, -112.0f,
                                       -104.0f, 104.0f,  113.0f,  122.0f};
  // kvalues_iq4nl[iq4_code(y)] as a sum of steps, which vectorises.
  static float nearest(float y) {
    float level = kvalues_iq4nl[0];
    for (int i = 0; i < 15; ++i) {
      const float middle = 0.5f * (kvalues_iq4nl[i] + kvalues_iq4nl[i + 1]);
      level += y >= middle ? static_cast<float>(kvalues_iq4nl[i + 1] - kvalues_iq4nl[i]) : 0.0f;
    }
    return level;
  }
};

// Splits codes into their low `bits` bits (in place) and the rest.
void split(uint8_t* codes, int bits, uint8_t (&high)[256]) {
  for (int i = 0; i < 256; ++i) {
    high[i] = static_cast<uint8_t>(codes[i] >> bits);
    codes[i] = static_cast<uint8_t>(codes[i] & ((1 << bits) - 1));
  }
}

// Codes of the integer levels [-zero, zero).
void whole_codes(const float (&levels)[256], int zero, uint8_t (&codes)[256]) {
  for (int i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(static_cast<int>(levels[i]) + zero);
}

}  // namespace

void quantize_q2_k(const float* x, uint8_t* out) {
  const auto block = affine_super_block<16, 16>(x, 3, 15);
  for (int g = 0; g < 16; ++g) {
    out[g] = static_cast<uint8_t>(block.scale[g] | block.minimum[g] << 4);
  }
  pack_strided<2, 32>(block.q, 256, out + 16);
  store_half(block.d, out + 80);
  store_half(block.dmin, out + 82);
}

void quantize_q3_k(const float* x, uint8_t* out) {
  const auto block = symmetric_super_block<Q3Levels, 16, 16>(x, 32);
  uint8_t low[256], high[256], scale_low[16], scale_high[16];
  whole_codes(block.q, 4, low);
  split(low, 2, high);
  pack_strided<1, 32>(high, 256, out);
  pack_strided<2, 32>(low, 256, out + 32);
  for (int g = 0; g < 16; ++g) {
    const int code = block.scale[g] + 32;
    scale_low[g] = code & 15;
    scale_high[g] = static_cast<uint8_t>(code >> 4);
  }
  pack_strided<4, 8>(scale_low, 16, out + 96);
  pack_strided<2, 4>(scale_high, 16, out + 104);
  store_half(block.d, out + 108);
}

// The 16 bytes that Q4_K and Q5_K begin with.
static void store_head(const AffineBlock<32, 8>& block, uint8_t* out) {
  store_half(block.d, out);
  store_half(block.dmin, out + 2);
  for (int i = 0; i < 4; ++i) {
    const int scale = block.scale[i + 4], minimum = block.minimum[i + 4];
    out[4 + i] = static_cast<uint8_t>(block.scale[i] | scale >> 4 << 6);
    out[8 + i] = static_cast<uint8_t>(block.minimum[i] | minimum >> 4 << 6);
    out[12 + i] = static_cast<uint8_t>((scale & 15) | (minimum & 15) << 4);
  }
}

void quantize_q4_k(const float* x, uint8_t* out) {
  const auto block = affine_super_block<32, 8>(x, 15, 63);
  store_head(block, out);
  pack_strided<4, 32>(block.q, 256, out + 16);
}

void quantize_q5_k(const float* x, uint8_t* out) {
  auto block = affine_super_block<32, 8>(x, 31, 63);
  store_head(block, out);
  uint8_t high[256];
  split(block.q, 4, high);
  pack_strided<1, 32>(high, 256, out + 16);
  pack_strided<4, 32>(block.q, 256, out + 48);
}

void quantize_q6_k(const float* x, uint8_t* out) {
  const auto block = symmetric_super_block<Q6Levels, 16, 16>(x, 128);
  uint8_t low[256], high[256];
  whole_codes(block.q, 32, low);
  split(low, 4, high);
  pack_strided<4, 64>(low, 256, out);
  pack_strided<2, 32>(high, 256, out + 128);
  std::memcpy(out + 192, block.scale, sizeof(block.scale));
  store_half(block.d, out + 208);
}

void quantize_iq4_nl(const float* values, uint8_t* out) {
  float x[32];
  condition<32>(values, x);
  const float d = half_scale(fit_symmetric<Iq4Levels, 32>(x));
  const float inverse = reciprocal(d);
  uint8_t codes[32];
  for (int i = 0; i < 32; ++i) codes[i] = static_cast<uint8_t>(iq4_code(x[i] * inverse));
  store_half(d, out);
  pack_strided<4, 16>(codes, 32, out + 2);
}

void quantize_iq4_xs(const float* x, uint8_t* out) {
  const auto block = symmetric_super_block<Iq4Levels, 32, 8>(x, 32);
  uint8_t codes[256], scale_low[8], scale_high[8];
  for (int i = 0; i < 256; ++i) codes[i] = static_cast<uint8_t>(iq4_code(block.q[i]));
  for (int g = 0; g < 8; ++g) {
    const int code = block.scale[g] + 32;
    scale_low[g] = code & 15;
    scale_high[g] = static_cast<uint8_t>(code >> 4);
  }
  store_half(block.d, out);
  pack_strided<2, 1>(scale_high, 8, out + 2);
  pack_strided<4, 1>(scale_low, 8, out + 4);
  pack_strided<4, 16>(codes, 256, out + 8);
}

}  // namespace rocmforge::cpu
