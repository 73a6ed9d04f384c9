// Activations as signed bytes.
#include "cpu/kernels/quant_rows.h"

#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

RF_INLINE int32_t sum(i32x8 v) {
  return ((v[0] + v[1]) + (v[2] + v[3])) + ((v[4] + v[5]) + (v[6] + v[7]));
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

// Quantizes one chunk to scale * codes with |code| <= 127; returns the scale and the sums of the
// first and of the second 16 codes. A NaN or an infinity makes the scale one, and so the products.
RF_INLINE float quantize_chunk(const float* x, int8_t* codes, int32_t* halves) {
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
  halves[0] = sum(q[0] + q[1]);
  halves[1] = sum(q[2] + q[3]);
  return scale;
}

}  // namespace

void quantize_tile(const float* x, int64_t stride, int tile, const QuantTypeKernels& type,
                   int64_t begin, const QuantizedRows& out) {
  const int subs = kChunk / type.sub_block;
  for (int64_t c = 0; c < out.chunks; ++c) {
    for (int i = 0; i < tile; ++i) {
      const int64_t entry = begin * out.chunks + c * tile + i;
      int32_t halves[2];
      const float scale =
          quantize_chunk(x + i * stride + c * kChunk, out.codes + entry * kChunk, halves);
      if (subs == 1) {
        halves[0] += halves[1];
        halves[1] = 0;
      }
      for (int s = 0; s < subs; ++s) {
        out.scales[entry * subs + s] = scale;
        out.sums[entry * subs + s] = scale * static_cast<float>(halves[s]);
      }
      store(out.starts + entry * 8, i32x8{-type.start_offset * halves[0], 0, 0, 0,
                                          -type.start_offset * halves[1], 0, 0, 0});
    }
  }
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
