#include <torch/csrc/stable/library.h>

#include "hip/activation.h"
#include "ops/activation_checks.h"
#include "ops/gpu.h"
#include "ops/gpu_rows.h"

namespace rocmforge {
namespace {

Tensor gated(const char* op, decltype(&gpu::silu_mul) kernel, const Tensor& gate,
             const Tensor& up) {
  check_gated(op, gate, up);
  Tensor out = torch::stable::new_empty(gate, gate.sizes());
  if (gate.numel() == 0) return out;
  const GpuLaunch launch(op, gate);
  const GpuRows gates(gate), ups(up);
  launch.done(kernel(gpu_dtype(gate), gates.data(), &gates.layout, ups.data(), &ups.layout,
                     out.mutable_data_ptr(), gates.count, gate.size(gate.dim() - 1),
                     launch.stream()));
  return out;
}

Tensor silu_mul(const Tensor& gate, const Tensor& up) {
  return gated("silu_mul", gpu::silu_mul, gate, up);
}

Tensor gelu_mul(const Tensor& gate, const Tensor& up) {
  return gated("gelu_mul", gpu::gelu_mul, gate, up);
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  m.impl("silu_mul", TORCH_BOX(&rocmforge::silu_mul));
  m.impl("gelu_mul", TORCH_BOX(&rocmforge::gelu_mul));
}
