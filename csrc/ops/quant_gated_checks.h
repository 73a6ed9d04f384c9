#pragma once

#include <string>

#include "ops/quant_checks.h"

namespace rocmforge {

inline constexpr const char* kGatedOp = "quant_matmul_gated";

// The halves of a weight's rows: gate's, then up's.
inline void check_halves(const char* op, const char* name, const Tensor& qweight) {
  check(qweight.size(0) % 2 == 0, op, name,
        " must have an even number of rows, gate's then up's, got ", qweight.size(0));
}

// The arguments of quant_matmul_gated, for every device.
inline const QuantTypeInfo& check_gated_product(const Tensor& x, const Tensor& qweight,
                                                int64_t qtype, const std::string& act,
                                                const std::optional<Tensor>& bias, int64_t layout) {
  constexpr const char* name = "qweight_gate_up";
  const QuantTypeInfo& type = check_product(kGatedOp, x, qweight, qtype, bias, layout, name);
  check(act == "silu" || act == "gelu", kGatedOp, "act must be silu or gelu, got ", act);
  check_halves(kGatedOp, name, qweight);
  return type;
}

}  // namespace rocmforge
