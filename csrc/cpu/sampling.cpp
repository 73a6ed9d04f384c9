#include "cpu/sampling.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/dispatch.h"

namespace rocmforge::cpu {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr int64_t kBlock = 64;

// Calls f(i) for every i with values[i] >= threshold(); blocks without any are passed over fast.
template <typename Threshold, typename F>
void for_each_from(const float* values, int64_t count, Threshold threshold, F f) {
  const auto maximum = glue_kernels().maximum;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t n = std::min(kBlock, count - begin);
    if (!(maximum(values + begin, n) >= threshold())) continue;
    for (int64_t i = begin; i < begin + n; ++i) {
      if (values[i] >= threshold()) f(i);
    }
  }
}

int64_t first_index(const float* values, int64_t count, float value) {
  return std::find(values, values + count, value) - values;
}

}  // namespace

void Sampler::keep_top_k(const float* logits, int64_t vocab, int64_t k) {
  // The best k so far and some more; whenever there are many more, the k-th raises the threshold.
  const size_t limit = static_cast<size_t>(std::max<int64_t>(4 * k, 1024));
  float threshold = kMinusInfinity;
  const auto shrink = [&] {
    if (candidates_.size() <= static_cast<size_t>(k)) return;
    const auto kth = candidates_.begin() + k - 1;
    std::nth_element(candidates_.begin(), kth, candidates_.end(), before);
    threshold = kth->logit;
    candidates_.resize(k);
  };
  for_each_from(
      logits, vocab, [&] { return threshold; },
      [&](int64_t i) {
        candidates_.push_back({logits[i], i});
        if (candidates_.size() >= limit) shrink();
      });
  shrink();
  std::sort(candidates_.begin(), candidates_.end(), before);
}

// Keeps the head of the sorted candidates whose weights, with `before_first` ahead of them, reach
// `limit`: every candidate that has less than `limit` ahead of it.
void Sampler::cut_sorted_at_top_p(float maximum, double before_first, double limit) {
  double sum = before_first;
  size_t kept = 0;
  while (kept < candidates_.size() && sum < limit) {
    double weight;
    glue_kernels().softmax_weights(&candidates_[kept].logit, maximum, &weight, 1);
    sum += weight;
    ++kept;
  }
  candidates_.resize(kept);
}

// Top-p of a whole vocabulary without sorting it: tokens are counted into bins by their distance
// from the maximum, and only the bin in which the sum reaches top_p is sorted.
void Sampler::keep_top_p(const float* logits, int64_t vocab, float maximum, double top_p) {
  constexpr int kBins = 1024;
  constexpr float kBinsPerUnit = 32.0f;
  const auto bin_of = [&](float logit) {
    const float distance = (maximum - logit) * kBinsPerUnit;
    return distance < kBins - 1 ? static_cast<int>(distance) : kBins - 1;
  };
  double bins[kBins] = {};
  double total = 0.0;
  weights_.resize(vocab);
  glue_kernels().softmax_weights(logits, maximum, weights_.data(), vocab);
  for (int64_t i = 0; i < vocab; ++i) {
    if (weights_[i] > 0) bins[bin_of(logits[i])] += weights_[i];
  }
  for (double bin : bins) total += bin;
  const double limit = top_p * total;
  int last = 0;
  double ahead = 0.0;
  while (last < kBins - 1 && ahead + bins[last] < limit) ahead += bins[last++];

  // The bin that is cut, then everything ahead of it.
  const float lowest = last == kBins - 1 ? kMinusInfinity : maximum - (last + 2) / kBinsPerUnit;
  std::vector<Candidate> whole;
  for_each_from(
      logits, vocab, [&] { return lowest; },
      [&](int64_t i) {
        const int bin = bin_of(logits[i]);
        if (bin < last) whole.push_back({logits[i], i});
        if (bin == last) candidates_.push_back({logits[i], i});
      });
  std::sort(candidates_.begin(), candidates_.end(), before);
  cut_sorted_at_top_p(maximum, ahead, limit);
  candidates_.insert(candidates_.end(), whole.begin(), whole.end());
}

int64_t Sampler::sample(const float* logits, int64_t vocab, const SampleParams& params) {
  const float maximum = glue_kernels().maximum(logits, vocab);
  // Without a temperature, or with nothing to weigh, the first maximum.
  if (maximum == kMinusInfinity) return 0;
  if (!(params.temperature > 0) || std::isinf(maximum)) return first_index(logits, vocab, maximum);

  const bool top_k = params.top_k > 0 && params.top_k < vocab;
  // Not a number keeps one token, and so does a min_p above 1.
  const bool top_p = !(params.top_p >= 1), min_p = !(params.min_p <= 0);
  const double least = std::log(params.min_p);
  const auto survives = [&](float logit) {
    return !min_p || static_cast<double>(logit) - maximum >= least;
  };
  const auto choose = [&](const float* values, const int64_t* ids, int64_t count) {
    return glue_kernels().gumbel_argmax(values, ids, count, params.temperature, params.seed,
                                        params.step);
  };
  if (!top_k && !top_p && !min_p) return choose(logits, nullptr, vocab);

  candidates_.clear();
  if (top_k) {
    keep_top_k(logits, vocab, params.top_k);
    if (top_p) {
      weights_.resize(candidates_.size());
      double total = 0.0;
      for (const Candidate& c : candidates_) {
        double weight;
        glue_kernels().softmax_weights(&c.logit, maximum, &weight, 1);
        total += weight;
      }
      cut_sorted_at_top_p(maximum, 0.0, params.top_p * total);
    }
  } else if (top_p) {
    keep_top_p(logits, vocab, maximum, params.top_p);
  } else {
    // Rounded down: `survives` decides.
    const auto rounded = static_cast<float>(maximum + least);
    const float lowest = std::nextafter(rounded, kMinusInfinity);
    for_each_from(
        logits, vocab, [&] { return lowest; },
        [&](int64_t i) { candidates_.push_back({logits[i], i}); });
  }
  values_.clear();
  ids_.clear();
  for (const Candidate& c : candidates_) {
    if (!survives(c.logit)) continue;
    values_.push_back(c.logit);
    ids_.push_back(c.id);
  }
  if (ids_.empty()) return first_index(logits, vocab, maximum);  // one is always kept
  return ids_[choose(values_.data(), ids_.data(), static_cast<int64_t>(ids_.size()))];
}

}  // namespace rocmforge::cpu
