// Elementary functions on vectors of float32, accurate to about one unit in the last place.
#pragma once

#include "cpu/kernels/half.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

// e^x. x = n * log(2) + r with |r| <= log(2) / 2; e^r by its Taylor series to r^7.
RF_INLINE f32xW exp(f32xW x) {
  // Where the result is 0 or infinity anyway; comparisons that let NaN pass.
  x = x < -104.0f ? splat<f32xW>(-104.0f) : x;
  x = x > 89.0f ? splat<f32xW>(89.0f) : x;
  const float round_magic = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const f32xW n = fma(x, splat<f32xW>(1.44269504f), splat<f32xW>(round_magic)) - round_magic;
  // log(2) in two parts; the first has few bits, so that its product with n is exact.
  f32xW r = fma(n, splat<f32xW>(-0.693359375f), x);
  r = fma(n, splat<f32xW>(2.12194440e-4f), r);
  const float terms[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f};
  f32xW e = splat<f32xW>(1.0f / 5040);
  for (float term : terms) e = fma(e, r, splat<f32xW>(term));
  // Times 2^n in two steps, because results reach below and above the normal range.
  const i32xW power = __builtin_convertvector(n, i32xW), half = power >> 1;
  return e * (f32xW)((half + 127) << 23) * (f32xW)((power - half + 127) << 23);
}

RF_INLINE f32xW sigmoid(f32xW x) { return 1.0f / (1.0f + exp(-x)); }

RF_INLINE f32xW tanh(f32xW x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

// sin and cos of float32 angles of any size: reduced to [-pi/4, pi/4] in float64, then Taylor.
RF_INLINE void sin_cos(f32x8 angle, f32x8* sin, f32x8* cos) {
  using f64x8 = Vec<double, 8>;
  using i64x8 = Vec<int64_t, 8>;
  const double round_magic = 6755399441055744.0;  // 1.5 * 2^52
  const f64x8 x = __builtin_convertvector(angle, f64x8);
  const f64x8 shifted = x * 0.63661977236758134 + round_magic;
  const f64x8 n = shifted - round_magic;
  // pi / 2 in two parts.
  const f64x8 reduced = (x - n * 1.5707963267341256) - n * 6.0771005065061922e-11;
  const f32x8 r = __builtin_convertvector(reduced, f32x8), r2 = r * r;
  const i32x8 quadrant = __builtin_convertvector((i64x8)shifted & 3, i32x8);

  const float sin_terms[] = {-1.0f / 5040, 1.0f / 120, -1.0f / 6};
  f32x8 s = splat<f32x8>(1.0f / 362880);
  for (float term : sin_terms) s = fma(s, r2, splat<f32x8>(term));
  s = fma(s * r2, r, r);
  const float cos_terms[] = {1.0f / 40320, -1.0f / 720, 1.0f / 24, -0.5f, 1.0f};
  f32x8 c = splat<f32x8>(-1.0f / 3628800);
  for (float term : cos_terms) c = fma(c, r2, splat<f32x8>(term));
  const i32x8 swap = (quadrant & 1) != 0;
  const i32x8 sin_sign = (quadrant & 2) << 30, cos_sign = ((quadrant + 1) & 2) << 30;
  *sin = (f32x8)((i32x8)(swap ? c : s) ^ sin_sign);
  *cos = (f32x8)((i32x8)(swap ? s : c) ^ cos_sign);
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
