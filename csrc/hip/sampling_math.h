// What `sample` computes of every token. The specification is ops/reference/sampling.py; like there
// everything is float64.
#pragma once

#include <cstdint>

#include "hip/compat.h"

namespace rocmforge::gpu {

using Word = unsigned long long;  // the 64-bit integer that atomics and shuffles know

// A logit and its token in one number: larger means earlier in the order of descending logits,
// ties by ascending id.
__device__ __forceinline__ Word sort_key(float logit, uint32_t id) {
  if (logit == 0.0f) logit = 0.0f;  // -0 is 0
  const uint32_t bits = __float_as_uint(logit);
  const uint32_t order = bits & 0x80000000u ? ~bits : bits | 0x80000000u;
  return static_cast<Word>(order) << 32 | (0xFFFFFFFFu - id);
}
__device__ __forceinline__ float key_logit(Word key) {
  const auto order = static_cast<uint32_t>(key >> 32);
  return __uint_as_float(order & 0x80000000u ? order & 0x7FFFFFFFu : ~order);
}
__device__ __forceinline__ uint32_t key_id(Word key) {
  return 0xFFFFFFFFu - static_cast<uint32_t>(key);
}

// exp(logit - maximum) <= 1 in steps of 1 / scale: sums of integers are the same in every order.
__device__ __forceinline__ Word softmax_weight(float logit, float maximum, double scale) {
  const double weight = exp(static_cast<double>(logit) - static_cast<double>(maximum));
  return static_cast<Word>(weight * scale + 0.5);
}

// The largest power of two that `vocab` tokens of weight 1 can be summed with in 64 bits. The sum
// is at least 1, so rounding costs less than vocab^2 / 2^64 of it: 2^-24 at a million tokens, and
// top_p < 1 is at most 1 - 2^-24.
inline double softmax_weight_scale(int64_t vocab) {
  double scale = 0x1p64;
  for (; vocab > 0; vocab /= 2) scale /= 2;
  return scale;
}

// First word of Philox4x32-10; key = seed, counter = (id, step).
__device__ __forceinline__ uint32_t philox(uint32_t id, Word step, Word seed) {
  uint32_t c0 = id, c1 = 0, c2 = static_cast<uint32_t>(step),
           c3 = static_cast<uint32_t>(step >> 32);
  uint32_t k0 = static_cast<uint32_t>(seed), k1 = static_cast<uint32_t>(seed >> 32);
#pragma unroll
  for (int round = 0; round < 10; ++round) {
    const Word p0 = static_cast<Word>(c0) * 0xD2511F53u, p1 = static_cast<Word>(c2) * 0xCD9E8D57u;
    c0 = static_cast<uint32_t>(p1 >> 32) ^ c1 ^ k0;
    c1 = static_cast<uint32_t>(p1);
    c2 = static_cast<uint32_t>(p0 >> 32) ^ c3 ^ k1;
    c3 = static_cast<uint32_t>(p0);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return c0;
}

__device__ __forceinline__ double gumbel(uint32_t random) {
  return -log(-log((random + 0.5) * 0x1p-32));
}

// The random choice of one row: the token with the largest logit / temperature + gumbel.
struct Choice {
  double score;
  Word key;

  __device__ __forceinline__ bool before(const Choice& other) const {
    return score != other.score ? score > other.score : key > other.key;
  }
};

struct Chooser {
  double temperature;
  Word seed, step;
  double cutoff;  // no logit below can win against the first maximum
  Choice best;

  // Starts with the first maximum, which is always among the kept.
  __device__ __forceinline__ Chooser(double temperature, Word seed, Word step, Word maximum)
      : temperature(temperature), seed(seed), step(step) {
    constexpr double kLargestGumbel = 23.0;  // -log(-log(1 - 2^-33)), rounded up
    const double g = gumbel(philox(key_id(maximum), step, seed));
    const double logit = key_logit(maximum);
    best = {logit / temperature + g, maximum};
    cutoff = logit - (kLargestGumbel - g) * temperature;
  }

  __device__ __forceinline__ void visit(Word key) {
    const double logit = key_logit(key);
    if (!(logit >= cutoff)) return;
    const double score = logit / temperature;
    const uint32_t random = philox(key_id(key), step, seed);
    // g > needed means 1 - u <= -log(u) < e^-needed <= 2^-n for every whole n <= needed.
    const double needed = fmin(fmax(best.score - score, 0.0), 31.0);
    if (0xFFFFFFFFu - random > (Word{1} << 32 >> static_cast<int>(needed))) return;
    const Choice choice = {score + gumbel(random), key};
    if (choice.before(best)) best = choice;
  }
};

}  // namespace rocmforge::gpu
