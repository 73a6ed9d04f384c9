// The rotation of pairs, for every kernel that has one: angles, and two numbers turned by one. It
// says which product is fused, so that all kernels have the same bits.
#pragma once

#include <cstdint>

#include "hip/compat.h"
#include "hip/rope.h"

namespace rocmforge::gpu {

// sin and cos of float32 angles of any size: reduced to [-pi/4, pi/4] in float64, then Taylor.
__device__ __forceinline__ void sin_cos(float angle, float* sin, float* cos) {
  const double n = rint(angle * 0.63661977236758134);
  // pi / 2 in two parts.
  const double reduced = fma(-n, 6.123233995736766e-17, fma(-n, 1.5707963267948966, angle));
  const float r = static_cast<float>(reduced), r2 = r * r;
  float s = 1.0f / 362880;
  s = fmaf(s, r2, -1.0f / 5040);
  s = fmaf(s, r2, 1.0f / 120);
  s = fmaf(s, r2, -1.0f / 6);
  s = fmaf(s * r2, r, r);
  float c = -1.0f / 3628800;
  c = fmaf(c, r2, 1.0f / 40320);
  c = fmaf(c, r2, -1.0f / 720);
  c = fmaf(c, r2, 1.0f / 24);
  c = fmaf(c, r2, -0.5f);
  c = fmaf(c, r2, 1.0f);
  const int quadrant = static_cast<int>(static_cast<int64_t>(n) & 3);
  const float swapped_sin = quadrant & 1 ? c : s, swapped_cos = quadrant & 1 ? s : c;
  *sin = quadrant & 2 ? -swapped_sin : swapped_sin;
  *cos = (quadrant + 1) & 2 ? -swapped_cos : swapped_cos;
}

__device__ __forceinline__ float position_of(const Rotation& rotation, int64_t token) {
  const int64_t count = rotation.num_positions, i = token < count ? token : token % count;
  return rotation.long_positions
             ? static_cast<float>(static_cast<const int64_t*>(rotation.positions)[i])
             : static_cast<float>(static_cast<const int32_t*>(rotation.positions)[i]);
}

// sin and cos of a pair at a position, times the rotation's scale.
__device__ __forceinline__ float2 turn_of(const Rotation& rotation, float position, int64_t pair) {
  float sin, cos;
  sin_cos(mul_rn(position, rotation.inv_freq[pair]), &sin, &cos);
  return {mul_rn(sin, rotation.scale), mul_rn(cos, rotation.scale)};
}

// What the pair (a, b) becomes; turn is (sin, cos).
__device__ __forceinline__ float turned_first(float a, float b, float2 turn) {
  return fmaf(a, turn.y, -mul_rn(b, turn.x));
}
__device__ __forceinline__ float turned_second(float a, float b, float2 turn) {
  return fmaf(a, turn.x, mul_rn(b, turn.y));
}

}  // namespace rocmforge::gpu
