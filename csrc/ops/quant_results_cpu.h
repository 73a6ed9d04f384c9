// Where a product goes: rounded to the output's dtype, or first through a gated activation.
#pragma once

#include <optional>

#include "cpu/dispatch.h"
#include "ops/quant_memory_cpu.h"

namespace rocmforge {

struct ProductOutput {
  void* data;  // [m, columns], contiguous
  int64_t m;
  cpu::DType dtype;
  const float* bias;                    // of every weight row, or null
  std::optional<cpu::Activation> gate;  // activation(first half of the weight rows) * second half
  int64_t columns;                      // weight rows, half of them if gated

  int64_t halves() const { return gate ? 2 : 1; }
};

// Where a thread leaves float results for columns [begin, begin + count): straight in a float32
// output, else in a tile of its own that is made into results by `finish`.
class Results {
 public:
  Results(const ProductOutput& out, int64_t max_count)
      : out_(out),
        direct_(out.dtype == cpu::DType::kFloat32 && !out.gate),
        max_count_(max_count),
        tile_(direct_ ? 0 : out.halves() * out.m * max_count) {}

  float* at(int64_t begin, int64_t half = 0) const {
    return direct_ ? static_cast<float*>(out_.data) + begin
                   : tile_.get() + half * out_.m * max_count_;
  }

  int64_t stride() const { return direct_ ? out_.columns : max_count_; }

  void finish(int64_t begin, int64_t count) const {
    for (int64_t i = 0; i < out_.m; ++i) {
      for (int64_t half = 0; half < out_.halves() && out_.bias; ++half) {
        float* row = at(begin, half) + i * stride();
        const float* bias = out_.bias + half * out_.columns + begin;
        for (int64_t j = 0; j < count; ++j) row[j] += bias[j];
      }
      if (direct_) continue;
      float* row = at(begin) + i * stride();
      const int64_t place = i * out_.columns + begin;
      const bool narrow = out_.dtype != cpu::DType::kFloat32;
      if (out_.gate) {
        const cpu::Rows gate{row, 1, 0, 0}, up{at(begin, 1) + i * stride(), 1, 0, 0};
        float* target = narrow ? row : static_cast<float*>(out_.data) + place;
        cpu::glue_kernels().gated(cpu::DType::kFloat32, *out_.gate, gate, up, target, count, 0, 1);
      }
      if (narrow) {
        void* target = static_cast<uint16_t*>(out_.data) + place;
        cpu::quant_kernels().from_float(out_.dtype, row, target, count);
      }
    }
  }

 private:
  const ProductOutput& out_;
  bool direct_;
  int64_t max_count_;
  Buffer<float> tile_;
};

}  // namespace rocmforge
