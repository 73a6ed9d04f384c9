#pragma once

#include "ops/checks.h"

namespace rocmforge {

inline void check_sample_parameter(const char* name, const Tensor& t, ScalarType dtype,
                                   const Tensor& logits) {
  check_dtype("sample", name, t, dtype);
  check_shape("sample", name, t, {logits.size(0)});
  check_device("sample", name, t, logits, "logits");
}

inline void check_sample(const Tensor& logits, const Tensor& temperature, const Tensor& top_k,
                         const Tensor& top_p, const Tensor& min_p, const Tensor& seed,
                         const Tensor& step) {
  constexpr const char* op = "sample";
  if (logits.dim() != 2) fail(op, "logits must be [B, V], got ", shape_text(logits));
  check(logits.size(1) > 0, op, "logits have no tokens to choose from");
  check_float(op, "logits", logits);
  check_sample_parameter("temperature", temperature, ScalarType::Float, logits);
  check_sample_parameter("top_k", top_k, ScalarType::Long, logits);
  check_sample_parameter("top_p", top_p, ScalarType::Float, logits);
  check_sample_parameter("min_p", min_p, ScalarType::Float, logits);
  check_sample_parameter("seed", seed, ScalarType::Long, logits);
  check_sample_parameter("step", step, ScalarType::Long, logits);
}

}  // namespace rocmforge
