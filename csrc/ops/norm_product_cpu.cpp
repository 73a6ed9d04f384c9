// Registers norm_quant_matmul for the CPU: the norm, then the product. A norm is little beside it,
// and threads share the product's rows, not x's.
#include <torch/csrc/stable/ops.h>

#include "ops/norm_cpu.h"
#include "ops/norm_product_checks.h"
#include "ops/quant_operands_cpu.h"

namespace rocmforge {
namespace {

std::tuple<Tensor, Tensor> norm_quant_matmul(const Result& result, const Result& total_result,
                                             const Tensor& x, const std::optional<Tensor>& weight,
                                             double eps, const Tensor& qweight, int64_t qtype,
                                             const std::string& act,
                                             const std::optional<Tensor>& bias, int64_t layout,
                                             const std::optional<Tensor>& residual,
                                             const std::optional<Tensor>& x_weight) {
  const NormProduct call{x,        weight,  static_cast<float>(eps), qweight, act, bias, layout,
                         residual, x_weight};
  const QuantTypeInfo& type = call.check(qtype);
  Tensor out =
      result.tensor(kNormProductOp, shape_with_last(x, call.columns()), x.scalar_type(), x);
  Tensor total = total_result.tensor(kNormProductOp, x.sizes(), x.scalar_type(), x);
  Tensor normed = empty_on_cpu(x.sizes(), x.scalar_type());
  if (residual) {
    norm_rows(x, &*residual, weight, eps, x_weight, normed, &total);
  } else {
    if (x_weight) {
      norm_rows(x, nullptr, x_weight, eps, std::nullopt, total, nullptr);
    } else {
      torch::stable::copy_(total, x);
    }
    norm_rows(total, nullptr, weight, eps, std::nullopt, normed, nullptr);
  }
  std::optional<cpu::Activation> gate;
  if (call.gated()) gate = act == "silu" ? cpu::Activation::kSilu : cpu::Activation::kGelu;
  product_into(out, normed, qweight, type, bias, layout, gate);
  return {out, total};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  implement<&norm_quant_matmul>(m, "norm_quant_matmul");
}

}  // namespace rocmforge
