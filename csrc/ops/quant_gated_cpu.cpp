// Registers quant_matmul_gated for the CPU: a thread's gate and up columns are multiplied one after
// the other and gated while they are in cache.
#include "ops/quant_gated_checks.h"
#include "ops/quant_operands_cpu.h"

namespace rocmforge {
namespace {

Tensor quant_matmul_gated(const Result& result, const Tensor& x, const Tensor& qweight_gate_up,
                          int64_t qtype, const std::string& act, const std::optional<Tensor>& bias,
                          int64_t layout) {
  const QuantTypeInfo& type = check_gated_product(x, qweight_gate_up, qtype, act, bias, layout);
  const auto gate = act == "silu" ? cpu::Activation::kSilu : cpu::Activation::kGelu;
  return product(kGatedOp, result, x, qweight_gate_up, type, bias, layout, gate);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  implement<&quant_matmul_gated>(m, "quant_matmul_gated");
}

}  // namespace rocmforge
