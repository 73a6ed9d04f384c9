#pragma once

#include "ops/checks.h"

namespace rocmforge {

inline void check_norm(const char* op, const Tensor& x, const std::optional<Tensor>& weight) {
  check_float(op, "x", x);
  check_dim(op, "x", x, 1);
  if (!weight) return;
  check_shape(op, "weight", *weight, {x.size(x.dim() - 1)});
  if (weight->scalar_type() != x.scalar_type() && weight->scalar_type() != ScalarType::Float) {
    const bool wide = x.scalar_type() == ScalarType::Float;
    fail(op, "weight must be ", wide ? "" : dtype_name(x.scalar_type()), wide ? "" : " or ",
         "float32, got ", dtype_name(weight->scalar_type()));
  }
  check_device(op, "weight", *weight, x, "x");
}

inline void check_residual(const char* op, const Tensor& x, const Tensor& residual) {
  check_same_shape(op, "residual", residual, x);
  check_same_dtype(op, "residual", residual, x);
  check_device(op, "residual", residual, x, "x");
}

}  // namespace rocmforge
