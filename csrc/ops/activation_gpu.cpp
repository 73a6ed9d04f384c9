#include "hip/activation.h"
#include "ops/activation_checks.h"
#include "ops/gpu.h"
#include "ops/gpu_rows.h"
#include "ops/result.h"

namespace rocmforge {
namespace {

Tensor gated(const char* op, const Result& result, decltype(&gpu::silu_mul) kernel,
             const Tensor& gate, const Tensor& up) {
  check_gated(op, gate, up);
  Tensor out = result.tensor(op, gate.sizes(), gate.scalar_type(), gate);
  if (gate.numel() == 0) return out;
  const GpuLaunch launch(op, gate);
  const GpuRows gates(gate), ups(up);
  launch.done(kernel(gpu_dtype(gate), gates.data(), &gates.layout, ups.data(), &ups.layout,
                     out.mutable_data_ptr(), gates.count, gate.size(gate.dim() - 1),
                     launch.stream()));
  return out;
}

Tensor silu_mul(const Result& result, const Tensor& gate, const Tensor& up) {
  return gated("silu_mul", result, gpu::silu_mul, gate, up);
}

Tensor gelu_mul(const Result& result, const Tensor& gate, const Tensor& up) {
  return gated("gelu_mul", result, gpu::gelu_mul, gate, up);
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  rocmforge::implement<&rocmforge::silu_mul>(m, "silu_mul");
  rocmforge::implement<&rocmforge::gelu_mul>(m, "gelu_mul");
}
