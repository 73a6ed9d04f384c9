// The quantizers of single blocks, and packing.
#pragma once

#include <cstdint>

namespace rocmforge::cpu {

// Q4_0 to Q8_1, Q8_K, Q1_0 and the plain types: simple.cpp.
void quantize_f32(const float* x, uint8_t* out);
void quantize_f16(const float* x, uint8_t* out);
void quantize_bf16(const float* x, uint8_t* out);
void quantize_q4_0(const float* x, uint8_t* out);
void quantize_q4_1(const float* x, uint8_t* out);
void quantize_q5_0(const float* x, uint8_t* out);
void quantize_q5_1(const float* x, uint8_t* out);
void quantize_q8_0(const float* x, uint8_t* out);
void quantize_q8_1(const float* x, uint8_t* out);
void quantize_q8_k(const float* x, uint8_t* out);
void quantize_q1_0(const float* x, uint8_t* out);

// Types whose scales are searched for: searched.cpp.
void quantize_q2_k(const float* x, uint8_t* out);
void quantize_q3_k(const float* x, uint8_t* out);
void quantize_q4_k(const float* x, uint8_t* out);
void quantize_q5_k(const float* x, uint8_t* out);
void quantize_q6_k(const float* x, uint8_t* out);
void quantize_iq4_nl(const float* x, uint8_t* out);
void quantize_iq4_xs(const float* x, uint8_t* out);

// Ternary types and 4-bit floats: small.cpp.
void quantize_tq1_0(const float* x, uint8_t* out);
void quantize_tq2_0(const float* x, uint8_t* out);
void quantize_mxfp4(const float* x, uint8_t* out);
void quantize_nvfp4(const float* x, uint8_t* out);

// Packs codes of `Bits` bits, 8 / Bits a byte and `Stride` elements apart, lowest first.
template <int Bits, int Stride>
inline void pack_strided(const uint8_t* codes, int count, uint8_t* out) {
  constexpr int kPerByte = 8 / Bits;
  for (int group = 0; group < count / (kPerByte * Stride); ++group) {
    for (int i = 0; i < Stride; ++i) {
      int byte = 0;
      for (int field = 0; field < kPerByte; ++field) {
        byte |= codes[(group * kPerByte + field) * Stride + i] << (Bits * field);
      }
      out[group * Stride + i] = static_cast<uint8_t>(byte);
    }
  }
}

}  // namespace rocmforge::cpu
