// F32, F16, BF16: conversions, which are also how these types dequantize.
#include "cpu/kernels/quant_tables.h"
#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

// Round to nearest, ties to even; NaN stays NaN.
uint16_t float_to_bfloat16(float value) {
  const uint32_t bits = float_to_bits(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>(bits >> 16 | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}

uint16_t float_to_half(float value) {
#if defined(__F16C__)
  return _cvtss_sh(value, _MM_FROUND_TO_NEAREST_INT);
#else
  const uint32_t bits = float_to_bits(value);
  const uint16_t sign = static_cast<uint16_t>(bits >> 16 & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00;
  if (magnitude >= 0x47800000) return sign | 0x7C00;  // 2^16 and above
  if (magnitude < 0x38800000) {
    // Below 2^-14 the result counts in steps of 2^-24: adding 1/2 leaves that count, rounded, in
    // the low bits of the sum.
    const float counted = bits_to_float(magnitude) + 0.5f;
    return sign | static_cast<uint16_t>(float_to_bits(counted) - 0x3F000000);
  }
  const uint32_t rounded = magnitude + 0xFFF + (magnitude >> 13 & 1);
  return sign | static_cast<uint16_t>((rounded - 0x38000000) >> 13);
#endif
}

void half_row(const uint8_t* in, int64_t count, float* out) {
  int64_t i = 0;
#if defined(__F16C__)
  for (; i + 8 <= count; i += 8)
    _mm256_storeu_ps(out + i, _mm256_cvtph_ps(load<__m128i>(in + 2 * i)));
#endif
  for (; i < count; ++i) out[i] = half_to_float(load<uint16_t>(in + 2 * i));
}

void bfloat16_row(const uint8_t* in, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i)
    out[i] = bits_to_float(static_cast<uint32_t>(load<uint16_t>(in + 2 * i)) << 16);
}

void float_row(const uint8_t* in, int64_t count, float* out) {
  __builtin_memcpy(out, in, count * sizeof(float));
}

constexpr QuantTypeKernels plain(const char* name, int qtype, int bytes,
                                 void (*dequantize)(const uint8_t*, int64_t, float*)) {
  return {name, qtype, 1, bytes, 0, 0, false, false, dequantize, nullptr, {nullptr, nullptr}};
}

}  // namespace

const QuantTypeKernels kPlainTypes[3] = {
    plain("F32", 0, 4, float_row),
    plain("F16", 1, 2, half_row),
    plain("BF16", 30, 2, bfloat16_row),
};

void to_float(DType dtype, const void* in, float* out, int64_t count) {
  const auto* bytes = static_cast<const uint8_t*>(in);
  if (dtype == DType::kFloat32) float_row(bytes, count, out);
  if (dtype == DType::kFloat16) half_row(bytes, count, out);
  if (dtype == DType::kBFloat16) bfloat16_row(bytes, count, out);
}

void from_float(DType dtype, const float* in, void* out, int64_t count) {
  auto* half = static_cast<uint16_t*>(out);
  int64_t i = 0;
  if (dtype == DType::kFloat32) __builtin_memcpy(out, in, count * sizeof(float));
  if (dtype == DType::kBFloat16)
    for (; i < count; ++i) half[i] = float_to_bfloat16(in[i]);
  if (dtype == DType::kFloat16) {
#if defined(__F16C__)
    for (; i + 8 <= count; i += 8)
      store(half + i, _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
#endif
    for (; i < count; ++i) half[i] = float_to_half(in[i]);
  }
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
