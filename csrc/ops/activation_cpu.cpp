#include <torch/csrc/stable/library.h>

#include "cpu/dispatch.h"
#include "ops/activation_checks.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {
namespace {

Tensor gated(const char* op, cpu::Activation activation, const Tensor& gate, const Tensor& up) {
  check_gated(op, gate, up);
  Tensor out = empty(gate.sizes(), gate.scalar_type());
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

Tensor silu_mul(const Tensor& gate, const Tensor& up) {
  return gated("silu_mul", cpu::Activation::kSilu, gate, up);
}

Tensor gelu_mul(const Tensor& gate, const Tensor& up) {
  return gated("gelu_mul", cpu::Activation::kGelu, gate, up);
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  m.impl("silu_mul", TORCH_BOX(&rocmforge::silu_mul));
  m.impl("gelu_mul", TORCH_BOX(&rocmforge::gelu_mul));
}
