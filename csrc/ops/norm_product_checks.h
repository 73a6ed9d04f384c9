#pragma once

#include <string>

#include "ops/norm_checks.h"
#include "ops/quant_gated_checks.h"

namespace rocmforge {

inline constexpr const char* kNormProductOp = "norm_quant_matmul";

// The arguments of norm_quant_matmul, for every device.
struct NormProduct {
  const Tensor& x;
  const std::optional<Tensor>& weight;
  float eps;
  const Tensor& qweight;
  const std::string& act;
  const std::optional<Tensor>& bias;
  int64_t layout;
  const std::optional<Tensor>& residual;
  const std::optional<Tensor>& x_weight;

  bool gated() const { return act != "none"; }
  int64_t columns() const { return qweight.size(0) / (gated() ? 2 : 1); }

  const QuantTypeInfo& check(int64_t qtype) const {
    constexpr const char* op = kNormProductOp;
    check_norm(op, x, weight);
    if (residual) check_residual(op, x, *residual);
    check_x_weight(op, x, weight, x_weight);
    const QuantTypeInfo& type = check_product(op, x, qweight, qtype, bias, layout);
    rocmforge::check(!gated() || act == "silu" || act == "gelu", op,
                     "act must be none or silu or gelu, got ", act);
    if (gated()) check_halves(op, "qweight", qweight);
    return type;
  }
};

}  // namespace rocmforge
