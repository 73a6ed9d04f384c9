#pragma once

#include "ops/checks.h"

namespace rocmforge {

// The weight of a norm over the last dimension of x, argument `of`; of dtype `wanted` or
// `wanted_too`.
inline void check_weight(const char* op, const char* name, const Tensor& weight, const Tensor& x,
                         ScalarType wanted, ScalarType wanted_too, const char* of = "x") {
  check_shape(op, name, weight, {x.size(x.dim() - 1)});
  if (weight.scalar_type() != wanted && weight.scalar_type() != wanted_too) {
    const bool one = wanted == wanted_too;
    fail(op, name, " must be ", dtype_name(wanted), one ? "" : " or ",
         one ? "" : dtype_name(wanted_too), ", got ", dtype_name(weight.scalar_type()));
  }
  check_device(op, name, weight, x, of);
}

inline void check_norm(const char* op, const Tensor& x, const std::optional<Tensor>& weight) {
  check_float(op, "x", x);
  check_dim(op, "x", x, 1);
  if (weight) check_weight(op, "weight", *weight, x, x.scalar_type(), ScalarType::Float);
}

// The weight of x's own norm in add_rms_norm: one launch knows one dtype of weights.
inline void check_x_weight(const char* op, const Tensor& x, const std::optional<Tensor>& weight,
                           const std::optional<Tensor>& x_weight) {
  if (!x_weight) return;
  const ScalarType wanted = weight ? weight->scalar_type() : x.scalar_type();
  const ScalarType too = weight ? wanted : ScalarType::Float;
  check_weight(op, "x_weight", *x_weight, x, wanted, too);
}

inline void check_residual(const char* op, const Tensor& x, const Tensor& residual) {
  check_same_shape(op, "residual", residual, x);
  check_same_dtype(op, "residual", residual, x);
  check_device(op, "residual", residual, x, "x");
}

}  // namespace rocmforge
