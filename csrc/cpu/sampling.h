// Choice of the next token of one row of logits.
#pragma once

#include <cstdint>
#include <vector>

namespace rocmforge::cpu {

struct SampleParams {
  double temperature;
  int64_t top_k;
  double top_p;
  double min_p;
  uint64_t seed;
  uint64_t step;
};

class Sampler {
 public:
  // The id of the chosen token; see the op `sample`.
  int64_t sample(const float* logits, int64_t vocab, const SampleParams& params);

 private:
  struct Candidate {
    float logit;
    int64_t id;
  };

  static bool before(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
  }
  void keep_top_k(const float* logits, int64_t vocab, int64_t k);
  void keep_top_p(const float* logits, int64_t vocab, float maximum, double top_p);
  void cut_sorted_at_top_p(float maximum, double before_first, double limit);

  std::vector<Candidate> candidates_;
  std::vector<double> weights_;
  std::vector<float> values_;
  std::vector<int64_t> ids_;
};

}  // namespace rocmforge::cpu
