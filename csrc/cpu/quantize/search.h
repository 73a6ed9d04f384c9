// Least-squares search for scales, the twin of the reference's search.py: the same steps in the
// same order. x holds sub-blocks of N values, Groups of them a super-block.
#pragma once

#include "cpu/quantize/arithmetic.h"

namespace rocmforge::cpu {

inline constexpr float kHalfMax = 65504.0f;
// Beyond these a float16 scale times the largest integers is 0 or overflows for every type here.
inline constexpr float kTiny = 0x1p-40f;
inline constexpr float kHuge = 0x1p30f;
// What is tried around a rounded scale or minimum; the first of equals is kept.
inline constexpr int kNeighbours[3] = {0, -1, 1};

// Replaces what no scale can represent: NaN by 0, tiny numbers by 0, huge ones by kHuge.
template <int N>
inline void condition(const float* x, float* out) {
  for (int i = 0; i < N; ++i) {
    out[i] = std::fabs(x[i]) >= kTiny ? clamp(x[i], -kHuge, kHuge) : 0.0f;
  }
}

// Rounded to float16 and back, never infinite.
inline float half_scale(float scale) {
  return half_value(half_bits(clamp(scale, -kHalfMax, kHalfMax)));
}

template <int N>
inline float sum_of_products(const float* a, const float* b) {
  float p[N];
  for (int i = 0; i < N; ++i) p[i] = a[i] * b[i];
  return tree_sum<N>(p);
}

// Squared error of scale * q - minimum.
template <int N>
inline float square_error(const float* x, const float* q, float scale, float minimum) {
  float e[N];
  for (int i = 0; i < N; ++i) {
    const float difference = scale * q[i] - minimum - x[i];
    e[i] = difference * difference;
  }
  return tree_sum<N>(e);
}

struct AffineFit {
  float scale;
  float minimum;
  float error;
};

template <int N>
inline void affine_codes(const float* x, float scale, float minimum, int qmax, float* q) {
  const float inverse = reciprocal(scale);
  for (int i = 0; i < N; ++i) q[i] = round_even(clamp((x[i] + minimum) * inverse, 0.0f, qmax));
}

// Solves scale and minimum for the codes q and keeps them where they are better.
template <int N>
inline void try_affine(const float* x, const float* q, float sum_x, float noise, AffineFit* best) {
  const float sum_q = tree_sum<N>(q);
  const float sum_qq = sum_of_products<N>(q, q);
  const float sum_xq = sum_of_products<N>(x, q);
  const float determinant = N * sum_qq - sum_q * sum_q;
  float scale = (N * sum_xq - sum_x * sum_q) / determinant;
  float minimum = (scale * sum_q - sum_x) / N;
  if (!(determinant > 0.0f && minimum >= 0.0f)) {
    scale = sum_xq / sum_qq;
    minimum = 0.0f;
  }
  if (!(scale > 0.0f)) return;
  const float error = square_error<N>(x, q, scale, minimum);
  if (error < best->error - noise) *best = {scale, minimum, error};
}

template <int N>
inline AffineFit fit_affine(const float* x, int qmax) {
  constexpr float kMargins[4] = {-0.25f, 0.25f, -0.625f, 0.625f};
  float low = x[0], high = x[0];
  for (int i = 1; i < N; ++i) {
    low = x[i] < low ? x[i] : low;
    high = x[i] > high ? x[i] : high;
  }
  if (low > 0.0f) low = 0.0f;
  const float span = high - low;
  const float sum_x = tree_sum<N>(x);
  const float noise = sum_of_products<N>(x, x) * 0x1p-30f;  // see the reference
  float shifted[N], q[N] = {};
  for (int i = 0; i < N; ++i) shifted[i] = x[i] - low;
  AffineFit best = {0.0f, 0.0f - low, square_error<N>(x, q, 0.0f, 0.0f - low)};
  for (float below : kMargins) {
    for (float above : kMargins) {
      const float inverse = span > 0.0f ? (qmax + below + above) / span : 0.0f;
      for (int i = 0; i < N; ++i) {
        q[i] = round_even(clamp(shifted[i] * inverse - below, 0.0f, qmax));
      }
      try_affine<N>(x, q, sum_x, noise, &best);
    }
  }
  affine_codes<N>(x, best.scale, best.minimum, qmax, q);
  try_affine<N>(x, q, sum_x, noise, &best);
  return best;
}

template <int N, int Groups>
struct AffineBlock {
  float d, dmin;
  uint8_t scale[Groups], minimum[Groups];
  uint8_t q[N * Groups];
};

template <int N, int Groups>
AffineBlock<N, Groups> affine_super_block(const float* values, int qmax, int scale_max) {
  float x[N * Groups];
  condition<N * Groups>(values, x);
  AffineFit fits[Groups];
  float max_scale = 0.0f, max_minimum = 0.0f;
  for (int g = 0; g < Groups; ++g) {
    fits[g] = fit_affine<N>(x + g * N, qmax);
    if (fits[g].scale > max_scale) max_scale = fits[g].scale;
    if (fits[g].minimum > max_minimum) max_minimum = fits[g].minimum;
  }
  AffineBlock<N, Groups> block;
  block.d = half_scale(max_scale / scale_max);
  block.dmin = half_scale(max_minimum / scale_max);
  const float inverse_d = reciprocal(block.d), inverse_dmin = reciprocal(block.dmin);
  for (int g = 0; g < Groups; ++g) {
    const float* group = x + g * N;
    const float scale = round_even(clamp(fits[g].scale * inverse_d, 0.0f, scale_max));
    const float minimum = round_even(clamp(fits[g].minimum * inverse_dmin, 0.0f, scale_max));
    AffineFit best = {scale, minimum, INFINITY};
    float q[N];
    for (int i : kNeighbours) {
      for (int j : kNeighbours) {
        const float new_scale = clamp(scale + i, 0.0f, scale_max);
        const float new_minimum = clamp(minimum + j, 0.0f, scale_max);
        const float step = block.d * new_scale, offset = block.dmin * new_minimum;
        affine_codes<N>(group, step, offset, qmax, q);
        const float error = square_error<N>(group, q, step, offset);
        if (error < best.error) best = {new_scale, new_minimum, error};
      }
    }
    affine_codes<N>(group, block.d * best.scale, block.dmin * best.minimum, qmax, q);
    block.scale[g] = static_cast<uint8_t>(best.scale);
    block.minimum[g] = static_cast<uint8_t>(best.minimum);
    for (int i = 0; i < N; ++i) block.q[g * N + i] = static_cast<uint8_t>(q[i]);
  }
  return block;
}

// Levels is a policy: float nearest(float), and the values that the element of largest magnitude is
// scaled to, kTargets.
template <class Levels, int N>
inline void nearest_levels(const float* x, float inverse, float* q) {
  for (int i = 0; i < N; ++i) q[i] = Levels::nearest(x[i] * inverse);
}

template <class Levels, int N>
float fit_symmetric(const float* x) {
  const float inverse_largest = reciprocal(largest(x, N));
  float scale = 0.0f, least = sum_of_products<N>(x, x);
  float q[N];
  const auto try_codes = [&] {
    const float sum_qq = sum_of_products<N>(q, q);
    const float new_scale = sum_of_products<N>(x, q) / sum_qq;
    const float error = square_error<N>(x, q, new_scale, 0.0f);
    if (sum_qq > 0.0f && error < least) {
      scale = new_scale;
      least = error;
    }
  };
  for (float target : Levels::kTargets) {
    nearest_levels<Levels, N>(x, target * inverse_largest, q);
    try_codes();
  }
  nearest_levels<Levels, N>(x, reciprocal(scale), q);
  try_codes();
  return scale;
}

template <int N, int Groups>
struct SymmetricBlock {
  float d;
  int8_t scale[Groups];
  float q[N * Groups];  // levels
};

template <class Levels, int N, int Groups>
SymmetricBlock<N, Groups> symmetric_super_block(const float* values, int scale_max) {
  float x[N * Groups], scales[Groups];
  condition<N * Groups>(values, x);
  for (int g = 0; g < Groups; ++g) scales[g] = fit_symmetric<Levels, N>(x + g * N);
  SymmetricBlock<N, Groups> block;
  block.d = half_scale(largest(scales, Groups) / -scale_max);
  const float inverse_d = reciprocal(block.d);
  const float low = -scale_max, high = scale_max - 1;
  for (int g = 0; g < Groups; ++g) {
    const float* group = x + g * N;
    float* q = block.q + g * N;
    const float start = round_even(clamp(scales[g] * inverse_d, low, high));
    float scale = start, least = INFINITY;
    for (int i : kNeighbours) {
      const float new_scale = clamp(start + i, low, high);
      const float step = block.d * new_scale;
      nearest_levels<Levels, N>(group, reciprocal(step), q);
      const float error = square_error<N>(group, q, step, 0.0f);
      if (error < least) {
        scale = new_scale;
        least = error;
      }
    }
    nearest_levels<Levels, N>(group, reciprocal(block.d * scale), q);
    block.scale[g] = static_cast<int8_t>(scale);
  }
  return block;
}

}  // namespace rocmforge::cpu
