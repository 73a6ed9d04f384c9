// Where a product goes: rounded to the output's dtype, or first through a gated activation.
#pragma once

#include <cstring>
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
    for (int64_t half = 0; half < out_.halves() && out_.bias; ++half) {
      const float* bias = out_.bias + half * out_.columns + begin;
      for (int64_t i = 0; i < out_.m; ++i) {
        float* row = at(begin, half) + i * stride();
        for (int64_t j = 0; j < count; ++j) row[j] += bias[j];
      }
    }
    if (out_.gate) gate(begin, count);
    for (int64_t i = 0; i < out_.m && !direct_; ++i) {
      const float* row = at(begin) + i * stride();
      const int64_t place = i * out_.columns + begin;
      if (out_.dtype == cpu::DType::kFloat32) {
        std::memcpy(static_cast<float*>(out_.data) + place, row, count * sizeof(float));
      } else {
        void* target = static_cast<uint16_t*>(out_.data) + place;
        cpu::quant_kernels().from_float(out_.dtype, row, target, count);
      }
    }
  }

 private:
  // In the place of the first half; all rows in one call where they follow each other.
  void gate(int64_t begin, int64_t count) const {
    const int64_t at_once = count == stride() ? out_.m : 1;
    for (int64_t i = 0; i < out_.m; i += at_once) {
      float* rows = at(begin) + i * stride();
      const cpu::Rows gates{rows, at_once, 0, stride()};
      const cpu::Rows ups{at(begin, 1) + i * stride(), at_once, 0, stride()};
      cpu::glue_kernels().gated(cpu::DType::kFloat32, *out_.gate, gates, ups, rows, count, 0,
                                at_once);
    }
  }

  const ProductOutput& out_;
  bool direct_;
  int64_t max_count_;
  Buffer<float> tile_;
};

}  // namespace rocmforge
