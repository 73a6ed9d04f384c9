#include <torch/csrc/stable/library.h>

#include "hip/norm.h"
#include "ops/gpu.h"

namespace rocmforge {
namespace {

Tensor rms_norm(const Tensor& x, const std::optional<Tensor>& weight, double eps) {
  constexpr const char* op = "rms_norm";
  check_float(op, "x", x);
  check(x.dim() >= 1, op, "x must have at least 1 dimension(s), got shape ", shape_text(x));
  const int64_t width = x.size(x.dim() - 1);
  std::optional<Tensor> scale;
  if (weight) {
    check_shape(op, "weight", *weight, {width});
    check_device(op, "weight", *weight, x, "x");
    check(weight->scalar_type() == ScalarType::Float || weight->scalar_type() == x.scalar_type(),
          op, "weight must be ", dtype_name(x.scalar_type()), " or float32, got ",
          dtype_name(weight->scalar_type()));
    scale = torch::stable::contiguous(*weight);
  }
  // Rows of a 2-d view may be apart; anything else is made contiguous.
  const bool rows_apart = x.dim() == 2 && x.stride(1) == 1;
  const Tensor rows = rows_apart ? x : torch::stable::contiguous(x);
  const int64_t stride = rows_apart ? x.stride(0) : width;
  Tensor out = torch::stable::new_empty(x, x.sizes());
  const GpuLaunch launch(op, x);
  launch.done(gpu::rms_norm(gpu_dtype(x), rows.const_data_ptr(), stride,
                            scale ? gpu_dtype(*scale) : gpu::DType::kFloat32,
                            scale ? scale->const_data_ptr() : nullptr, static_cast<float>(eps),
                            out.mutable_data_ptr(), width ? x.numel() / width : 0, width,
                            launch.stream()));
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) { m.impl("rms_norm", TORCH_BOX(&rocmforge::rms_norm)); }
