#include "cpu/dispatch.h"
#include "ops/activation_checks.h"
#include "ops/result.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {
namespace {

Tensor gated(const char* op, const Result& result, cpu::Activation activation, const Tensor& gate,
             const Tensor& up) {
  check_gated(op, gate, up);
  Tensor out = result.tensor(op, gate.sizes(), gate.scalar_type(), gate);
  if (gate.numel() == 0) return out;
  const int64_t width = gate.size(gate.dim() - 1);
  const RowView gates = row_view(gate), ups = row_view(up);
  void* out_data = out.mutable_data_ptr();
  parallel(gates.count, 4 * width, [&](int64_t begin, int64_t end) {
    cpu::glue_kernels().gated(cpu_dtype(gate), activation, gates.rows, ups.rows, out_data, width,
                              begin, end);
  });
  return out;
}

Tensor silu_mul(const Result& result, const Tensor& gate, const Tensor& up) {
  return gated("silu_mul", result, cpu::Activation::kSilu, gate, up);
}

Tensor gelu_mul(const Result& result, const Tensor& gate, const Tensor& up) {
  return gated("gelu_mul", result, cpu::Activation::kGelu, gate, up);
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  rocmforge::implement<&rocmforge::silu_mul>(m, "silu_mul");
  rocmforge::implement<&rocmforge::gelu_mul>(m, "gelu_mul");
}
