// Registers quantize for GPUs: the types with a kernel; Python's reference takes the others.
#include <torch/csrc/stable/library.h>

#include <array>
#include <vector>

#include "hip/quantize.h"
#include "ops/gpu.h"
#include "ops/gpu_rows.h"

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
  constexpr const char* op = "quantize";
  const bool known = 0 <= qtype && qtype < 1 << 16;
  const gpu::QuantizedBlock block = gpu::quantized_block(known ? static_cast<int>(qtype) : -1);
  if (block.name == nullptr) return quantize_by_reference(x, qtype);
  check_float(op, "x", x);
  check_dim(op, "x", x, 1);
  const int64_t k = x.size(x.dim() - 1);
  check(k % block.values == 0, op, "the last dimension of x must be a multiple of ", block.name,
        "'s block size ", block.values, ", got ", k);
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < x.dim(); ++i) shape.push_back(x.size(i));
  shape.back() = k / block.values * block.bytes;
  Tensor out = torch::stable::new_empty(x, shape, ScalarType::Byte);
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, x);
  const GpuRows rows(x);
  launch.done(gpu::quantize(static_cast<int>(qtype), gpu_dtype(x), rows.data(), &rows.layout,
                            rows.count, k, out.mutable_data_ptr(), launch.stream()));
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  m.impl("quantize", TORCH_BOX(&rocmforge::quantize));
}
