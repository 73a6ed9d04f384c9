#pragma once

#include <string>

#include "ops/quant_checks.h"

namespace rocmforge {

inline constexpr const char* kGatedOp = "quant_matmul_gated";

// The arguments of quant_matmul_gated, for every device.
inline const QuantTypeInfo& check_gated_product(const Tensor& x, const Tensor& qweight,
                                                int64_t qtype, const std::string& act,
                                                const std::optional<Tensor>& bias, int64_t layout) {
  constexpr const char* name = "qweight_gate_up";
  const QuantTypeInfo& type = check_product(kGatedOp, x, qweight, qtype, bias, layout, name);
  check(qweight.size(0) % 2 == 0, kGatedOp, name,
        " must have an even number of rows, gate's then up's, got ", qweight.size(0));
  check(act == "silu" || act == "gelu", kGatedOp, "act must be silu or gelu, got ", act);
  return type;
}

}  // namespace rocmforge
