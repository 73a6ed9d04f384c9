// Registers quantize for GPUs: the types with a kernel; Python's reference takes the others.
#include <torch/csrc/stable/library.h>

#include <array>

#include "hip/quantize.h"
#include "ops/gpu.h"
#include "ops/gpu_rows.h"
#include "ops/quantize_checks.h"

namespace rocmforge {
namespace {

// An op that Python defines (ops/schemas.py): it warns once that the reference runs.
Tensor quantize_by_reference(const Tensor& x, int64_t qtype) {
  using torch::stable::detail::from;
  std::array<StableIValue, 2> stack{from(x), from(qtype)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("rocmforge_fallback::quantize", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

Tensor quantize(const Tensor& x, int64_t qtype) {
  const QuantTypeInfo& type = check_quantize(x, qtype);
  if (!gpu::has_quantizer(type.id)) return quantize_by_reference(x, qtype);
  Tensor out = empty_blocks(x, type);
  if (out.numel() == 0) return out;
  const GpuLaunch launch("quantize", x);
  const GpuRows rows(x);
  launch.done(gpu::quantize(type.id, gpu_dtype(x), rows.data(), &rows.layout, rows.count,
                            x.size(x.dim() - 1), out.mutable_data_ptr(), launch.stream()));
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  m.impl("quantize", TORCH_BOX(&rocmforge::quantize));
}
