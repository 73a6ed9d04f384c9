// What `sample` needs of every token of the vocabulary. The specification of the random numbers
// is ops/reference/sampling.py; like there, everything is float64.
#include "cpu/kernels/glue_functions.h"
#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

using f64x8 = Vec<double, 8>;
using i64x8 = Vec<int64_t, 8>;
using u64x8 = Vec<uint64_t, 8>;

constexpr double kRoundMagic = 6755399441055744.0;  // 1.5 * 2^52: adding it rounds to an integer
constexpr double kLog2 = 0.69314718055994531;
constexpr double kInfinity = __builtin_inf();

// e^x for x <= 0; 0 below -708. x = n * log(2) + r; e^r by its Taylor series to r^13.
RF_INLINE f64x8 exp_negative(f64x8 x) {
  const f64x8 clamped = x > -708.0 ? x : splat<f64x8>(-708.0);
  const f64x8 shifted = clamped * (1 / kLog2) + kRoundMagic, n = shifted - kRoundMagic;
  // log(2) in two parts; the first has few bits, so that its product with n is exact.
  const f64x8 r = (clamped - n * 0.693147180369123816490) - n * 1.90821492927058770002e-10;
  f64x8 e = splat<f64x8>(1.0);
  for (int i = 13; i >= 1; --i) e = 1.0 + e * (r * (1.0 / i));
  const f64x8 power = (f64x8)(((i64x8)shifted + 1023) << 52);
  return x > -708.0 ? e * power : splat<f64x8>(0.0);
}

// log(x) for normal x > 0: x = 2^e * m with m in [0.7, 1.4], log(m) = 2 atanh((m - 1) / (m + 1)).
RF_INLINE f64x8 log(f64x8 x) {
  // The exponent counted from sqrt(1/2), and what is left when it is taken off.
  const i64x8 from = (i64x8)x - 0x3FE6A09E667F3BCD;
  const i64x8 exponent = from >> 52;
  const f64x8 m = (f64x8)((i64x8)x - (exponent << 52));
  const f64x8 s = (m - 1.0) / (m + 1.0), s2 = s * s;
  f64x8 series = splat<f64x8>(1.0 / 23);
  for (int i = 21; i >= 1; i -= 2) series = series * s2 + 1.0 / i;
  return __builtin_convertvector(exponent, f64x8) * kLog2 + 2.0 * s * series;
}

// First word of Philox4x32-10; key = seed, counter = (id, step).
RF_INLINE u64x8 philox(u64x8 id, uint64_t step, uint64_t seed) {
  const uint64_t low = 0xFFFFFFFF;
  u64x8 c0 = id & low, c1 = id >> 32, c2 = splat<u64x8>(step & low), c3 = splat<u64x8>(step >> 32);
  uint64_t k0 = seed & low, k1 = seed >> 32;
  for (int round = 0; round < 10; ++round) {
    const u64x8 p0 = c0 * uint64_t{0xD2511F53}, p1 = c2 * uint64_t{0xCD9E8D57};
    c0 = (p1 >> 32) ^ c1 ^ k0;
    c2 = (p0 >> 32) ^ c3 ^ k1;
    c1 = p1 & low;
    c3 = p0 & low;
    k0 = (k0 + 0x9E3779B9) & low;
    k1 = (k1 + 0xBB67AE85) & low;
  }
  return c0;
}

RF_INLINE f64x8 gumbel(u64x8 random) {
  const f64x8 u = (__builtin_convertvector((i64x8)random, f64x8) + 0.5) * 0x1p-32;
  return -log(-log(u));
}

constexpr double kLargestGumbel = 22.9;  // -log(-log(1 - 2^-33)), rounded up

// Whether gumbel(random) can exceed `needed`, without its logarithms: never false if it does.
// g > needed means 1 - u <= -log(u) < e^-needed <= 2^-n for every whole n <= needed.
RF_INLINE i64x8 can_reach(u64x8 random, f64x8 needed) {
  const f64x8 in_range = needed > 0.0 ? needed : splat<f64x8>(0.0);
  const i64x8 n = __builtin_convertvector(in_range < 31.0 ? in_range : splat<f64x8>(31.0), i64x8);
  return (i64x8)(0xFFFFFFFF - random) <= (splat<i64x8>(int64_t{1} << 32) >> n);
}

RF_INLINE bool any(i64x8 lanes) {
  int64_t found = 0;
  for (int i = 0; i < 8; ++i) found |= lanes[i];
  return found != 0;
}

}  // namespace

float maximum(const float* values, int64_t count) {
  f32xW best[4];
  for (f32xW& b : best) b = splat<f32xW>(-__builtin_inff());
  int64_t i = 0;
  for (; i + 4 * kLanes <= count; i += 4 * kLanes) {
    for (int j = 0; j < 4; ++j) {
      const f32xW v = load<f32xW>(values + i + j * kLanes);
      best[j] = v > best[j] ? v : best[j];
    }
  }
  float result = -__builtin_inff();
  for (int j = 0; j < 4; ++j) {
    for (int k = 0; k < kLanes; ++k) result = best[j][k] > result ? best[j][k] : result;
  }
  for (; i < count; ++i) result = values[i] > result ? values[i] : result;
  return result;
}

void softmax_weights(const float* values, float maximum, double* weights, int64_t count) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const f64x8 v = __builtin_convertvector(load<f32x8>(values + i), f64x8);
    store(weights + i, exp_negative(v - static_cast<double>(maximum)));
  }
  for (; i < count; ++i) {
    weights[i] = exp_negative(splat<f64x8>(static_cast<double>(values[i]) - maximum))[0];
  }
}

int64_t gumbel_argmax(const float* values, const int64_t* ids, int64_t count, double temperature,
                      uint64_t seed, uint64_t step) {
  double best = -kInfinity;
  int64_t best_index = 0;
  for (int64_t i = 0; i < count; i += 8) {
    const int64_t n = count - i < 8 ? count - i : 8;
    f64x8 score = splat<f64x8>(-kInfinity);
    u64x8 id = {};
    if (n == 8) {
      score = __builtin_convertvector(load<f32x8>(values + i), f64x8);
    } else {
      for (int64_t j = 0; j < n; ++j) score[j] = values[i + j];
    }
    score /= temperature;
    const f64x8 needed = best - score;
    if (!any(needed < kLargestGumbel)) continue;
    for (int64_t j = 0; j < n; ++j) id[j] = ids ? ids[i + j] : i + j;
    const u64x8 random = philox(id, step, seed);
    if (!any(can_reach(random, needed))) continue;
    score += gumbel(random);
    for (int j = 0; j < 8; ++j) {
      if (score[j] > best) {
        best = score[j];
        best_index = i + j;
      }
    }
  }
  return best_index;
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
