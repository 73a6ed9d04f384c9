#include "ops/norm_gpu.h"

#include "hip/norm.h"
#include "ops/gpu.h"
#include "ops/gpu_rows.h"
#include "ops/norm_checks.h"
#include "ops/result.h"

namespace rocmforge {
namespace {

Tensor rms_norm(const Result& result, const Tensor& x, const std::optional<Tensor>& weight,
                double eps) {
  constexpr const char* op = "rms_norm";
  check_norm(op, x, weight);
  Tensor out = result.tensor(op, x.sizes(), x.scalar_type(), x);
  if (x.numel() == 0) return out;
  const GpuLaunch launch(op, x);
  const GpuRows rows(x);
  const NormWeight scale(weight);
  launch.done(gpu::rms_norm(gpu_dtype(x), rows.data(), &rows.layout, scale.dtype, scale.data,
                            static_cast<float>(eps), out.mutable_data_ptr(), rows.count,
                            x.size(x.dim() - 1), launch.stream()));
  return out;
}

std::tuple<Tensor, Tensor> add_rms_norm(const Result& result, const Result& total, const Tensor& x,
                                        const Tensor& residual, const std::optional<Tensor>& weight,
                                        double eps, const std::optional<Tensor>& x_weight) {
  constexpr const char* op = "add_rms_norm";
  check_norm(op, x, weight);
  check_residual(op, x, residual);
  check_x_weight(op, x, weight, x_weight);
  Tensor out = result.tensor(op, x.sizes(), x.scalar_type(), x);
  Tensor sum = total.tensor(op, x.sizes(), x.scalar_type(), x);
  if (x.numel() == 0) return {out, sum};
  const GpuLaunch launch(op, x);
  const GpuRows rows(x), others(residual);
  const NormWeight scale(weight), x_scale(x_weight);
  launch.done(gpu::add_rms_norm(gpu_dtype(x), rows.data(), &rows.layout, others.data(),
                                &others.layout, weight ? scale.dtype : x_scale.dtype, scale.data,
                                x_scale.data, static_cast<float>(eps), out.mutable_data_ptr(),
                                sum.mutable_data_ptr(), rows.count, x.size(x.dim() - 1),
                                launch.stream()));
  return {out, sum};
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  rocmforge::implement<&rocmforge::rms_norm>(m, "rms_norm");
  rocmforge::implement<&rocmforge::add_rms_norm>(m, "add_rms_norm");
}
