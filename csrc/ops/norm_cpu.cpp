#include "ops/norm_cpu.h"

#include "cpu/dispatch.h"
#include "ops/norm_checks.h"
#include "ops/result.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {

void norm_rows(const Tensor& x, const Tensor* residual, const std::optional<Tensor>& weight,
               double eps, const std::optional<Tensor>& x_weight, Tensor& out, Tensor* sum) {
  const int64_t width = x.size(x.dim() - 1);
  if (x.numel() == 0) return;
  const RowView in = row_view(x);
  std::optional<RowView> other;
  if (residual) other = row_view(*residual);
  std::optional<Tensor> scale, x_scale;
  if (weight) scale = as_contiguous(*weight);
  if (x_weight) x_scale = as_contiguous(*x_weight);
  const void* scale_data = scale ? scale->const_data_ptr() : nullptr;
  const void* x_scale_data = x_scale ? x_scale->const_data_ptr() : nullptr;
  const cpu::DType scale_dtype = scale     ? cpu_dtype(*scale)
                                 : x_scale ? cpu_dtype(*x_scale)
                                           : cpu::DType::kFloat32;
  void* out_data = out.mutable_data_ptr();
  void* sum_data = sum ? sum->mutable_data_ptr() : nullptr;
  parallel(in.count, width, [&](int64_t begin, int64_t end) {
    cpu::glue_kernels().rms_norm(cpu_dtype(x), in.rows, other ? &other->rows : nullptr, scale_dtype,
                                 scale_data, x_scale_data, static_cast<float>(eps), out_data,
                                 sum_data, width, begin, end);
  });
}

namespace {

Tensor rms_norm(const Result& result, const Tensor& x, const std::optional<Tensor>& weight,
                double eps) {
  constexpr const char* op = "rms_norm";
  check_norm(op, x, weight);
  Tensor out = result.tensor(op, x.sizes(), x.scalar_type(), x);
  norm_rows(x, nullptr, weight, eps, std::nullopt, out, nullptr);
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
  norm_rows(x, &residual, weight, eps, x_weight, out, &sum);
  return {out, sum};
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  rocmforge::implement<&rocmforge::rms_norm>(m, "rms_norm");
  rocmforge::implement<&rocmforge::add_rms_norm>(m, "add_rms_norm");
}
