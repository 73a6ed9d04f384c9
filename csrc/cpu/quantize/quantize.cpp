#include "cpu/quantize/quantize.h"

#include "cpu/quantize/blocks.h"

namespace rocmforge::cpu {
namespace {

// In the order of the type numbers.
constexpr Quantizer kQuantizers[] = {
    {"F32", 0, 1, 4, quantize_f32},          {"F16", 1, 1, 2, quantize_f16},
    {"Q4_0", 2, 32, 18, quantize_q4_0},      {"Q4_1", 3, 32, 20, quantize_q4_1},
    {"Q5_0", 6, 32, 22, quantize_q5_0},      {"Q5_1", 7, 32, 24, quantize_q5_1},
    {"Q8_0", 8, 32, 34, quantize_q8_0},      {"Q8_1", 9, 32, 36, quantize_q8_1},
    {"Q2_K", 10, 256, 84, quantize_q2_k},    {"Q3_K", 11, 256, 110, quantize_q3_k},
    {"Q4_K", 12, 256, 144, quantize_q4_k},   {"Q5_K", 13, 256, 176, quantize_q5_k},
    {"Q6_K", 14, 256, 210, quantize_q6_k},   {"Q8_K", 15, 256, 292, quantize_q8_k},
    {"IQ4_NL", 20, 32, 18, quantize_iq4_nl}, {"IQ4_XS", 23, 256, 136, quantize_iq4_xs},
    {"BF16", 30, 1, 2, quantize_bf16},       {"TQ1_0", 34, 256, 54, quantize_tq1_0},
    {"TQ2_0", 35, 256, 66, quantize_tq2_0},  {"MXFP4", 39, 32, 17, quantize_mxfp4},
    {"NVFP4", 40, 64, 36, quantize_nvfp4},   {"Q1_0", 41, 128, 18, quantize_q1_0},
};

}  // namespace

const Quantizer* find_quantizer(int qtype) {
  for (const Quantizer& entry : kQuantizers) {
    if (entry.qtype == qtype) return &entry;
  }
  return nullptr;
}

void quantize_rows(int qtype, const float* x, uint8_t* out, int64_t rows, int64_t k) {
  const Quantizer& entry = *find_quantizer(qtype);
  const int64_t blocks = rows * (k / entry.block_size);
  for (int64_t b = 0; b < blocks; ++b) {
    entry.quantize(x + b * entry.block_size, out + b * entry.block_bytes);
  }
}

}  // namespace rocmforge::cpu
