// Registers quantize for GPUs: the types with a kernel; Python's reference takes the others.
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

Tensor quantize(const Result& result, const Tensor& x, int64_t qtype) {
  constexpr const char* op = "quantize";
  const QuantTypeInfo& type = check_quantize(x, qtype);
  Tensor out = result.tensor(op, blocks_shape(x, type), ScalarType::Byte, x);
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, x);
  if (!gpu::has_quantizer(type.id)) {
    // What the reference copies from the host would be gone when a graph replays.
    if (gpu::is_captured(launch.stream())) {
      fail(op, type.name, " has no GPU kernel, and its reference cannot be captured in a graph");
    }
    torch::stable::copy_(out, quantize_by_reference(x, qtype));
    return out;
  }
  const GpuRows rows(x);
  launch.done(gpu::quantize(type.id, gpu_dtype(x), rows.data(), &rows.layout, rows.count,
                            x.size(x.dim() - 1), out.mutable_data_ptr(), launch.stream()));
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  rocmforge::implement<&rocmforge::quantize>(m, "quantize");
}
