// Activations as signed bytes.
#include "cpu/kernels/quant_rows.h"

#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

RF_INLINE int32_t sum(const int32_t* v, int count) {
  int32_t total = 0;
  for (int i = 0; i < count; ++i) total += v[i];
  return total;
}

// The largest magnitude of 32 values. Magnitudes order as their bits do, and so a NaN wins.
RF_INLINE float largest(const f32x8* v) {
  i32x8 most = {};
  for (int i = 0; i < 4; ++i) {
    const i32x8 bits = (i32x8)v[i] & 0x7FFFFFFF;
    most = bits > most ? bits : most;
  }
  int32_t result = 0;
  for (int i = 0; i < 8; ++i) result = most[i] > result ? most[i] : result;
  return bits_to_float(result);
}

// Quantizes one chunk to scale * codes with |code| <= 127; returns the scale and the sums of every
// 4 codes. A NaN or an infinity makes the scale one, and so the products.
RF_INLINE float quantize_chunk(const float* x, int8_t* codes, int32_t* fours) {
  f32x8 v[4];
  for (int i = 0; i < 4; ++i) v[i] = load<f32x8>(x + 8 * i);
  const float scale = largest(v) / 127;
  // Below 2^-120 the reciprocal would overflow; such activations count as zero.
  const float inverse = scale < 0x1p-120f ? 0.0f : 1 / scale;
  // Adding 1.5 * 2^23 rounds to the nearest integer, ties to even, and leaves it in the low bits.
  const float magic = 0x1.8p23f;
  i32x8 q[4];
  for (int i = 0; i < 4; ++i) {
    typedef int8_t i8x8 __attribute__((vector_size(8)));
    q[i] = (i32x8)(v[i] * inverse + magic) - 0x4B400000;
    store(codes + 8 * i, __builtin_convertvector(q[i], i8x8));
  }
  for (int i = 0; i < 8; ++i)
    fours[i] = (q[i / 2][i % 2 * 4] + q[i / 2][i % 2 * 4 + 1]) +
               (q[i / 2][i % 2 * 4 + 2] + q[i / 2][i % 2 * 4 + 3]);
  return scale;
}

}  // namespace

void quantize_tile(const float* x, int64_t stride, int tile, const QuantTypeKernels& type,
                   int64_t begin, const QuantizedRows& out) {
  const int subs = kChunk / type.sub_block;
  for (int64_t c = 0; c < out.chunks; ++c) {
    for (int i = 0; i < tile; ++i) {
      const int64_t entry = begin * out.chunks + c * tile + i;
      int32_t starts[8];
      const float scale =
          quantize_chunk(x + i * stride + c * kChunk, out.codes + entry * kChunk, starts);
      int32_t sums[2];
      for (int s = 0; s < subs; ++s) {
        sums[s] = sum(starts + s * 8 / subs, 8 / subs);
        out.scales[entry * subs + s] = scale;
        out.sums[entry * subs + s] = scale * static_cast<float>(sums[s]);
      }
      if (!out.lane_starts)
        for (int s = 0; s < subs; ++s) starts[4 * s] = sums[s];
      store(out.starts + entry * 8, load<i32x8>(starts) * -type.start_offset);
    }
  }
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
