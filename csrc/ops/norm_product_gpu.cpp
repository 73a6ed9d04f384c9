// Registers norm_quant_matmul for the GPU. Kernels that prepare rows for a product of our own norm
// them, too; else it is the norm's kernel, then the product's.
#include <torch/csrc/stable/ops.h>

#include "hip/norm.h"
#include "ops/gpu_rows.h"
#include "ops/norm_gpu.h"
#include "ops/norm_product_checks.h"
#include "ops/quant_product_gpu.h"
#include "ops/result.h"

namespace rocmforge {
namespace {

// out = rms_norm(x, weight).
void norm_rows(const GpuLaunch& launch, const Tensor& x, const NormWeight& weight, float eps,
               Tensor& out) {
  const GpuRows rows(x);
  launch.done(gpu::rms_norm(gpu_dtype(x), rows.data(), &rows.layout, weight.dtype, weight.data, eps,
                            out.mutable_data_ptr(), rows.count, last_size(x), launch.stream()));
}

// What the product multiplies; writes total.
Tensor normed_rows(const GpuLaunch& launch, const NormProduct& call, const NormWeight& weight,
                   const NormWeight& x_weight, Tensor& total) {
  const Tensor& x = call.x;
  Tensor normed = torch::stable::new_empty(x, x.sizes());
  if (x.numel() == 0) return normed;
  if (call.residual) {
    const GpuRows rows(x), others(*call.residual);
    launch.done(gpu::add_rms_norm(gpu_dtype(x), rows.data(), &rows.layout, others.data(),
                                  &others.layout, weight.data ? weight.dtype : x_weight.dtype,
                                  weight.data, x_weight.data, call.eps, normed.mutable_data_ptr(),
                                  total.mutable_data_ptr(), rows.count, last_size(x),
                                  launch.stream()));
    return normed;
  }
  if (x_weight.data) {
    norm_rows(launch, x, x_weight, call.eps, total);
  } else {
    torch::stable::copy_(total, x);
  }
  norm_rows(launch, total, weight, call.eps, normed);
  return normed;
}

// The kernel that does both, if there is one.
std::optional<ProductKernel> norming_kernel(const GpuLaunch& launch, const NormProduct& call,
                                            const QuantTypeInfo& type, const Weight& weight) {
  const int64_t k = weight.matrix.cols, rows = k ? call.x.numel() / k : 0;
  if (rows == 0 || call.x_weight) return std::nullopt;
  const ProductKernel kernel = product_kernel(launch.device(), type, rows, k);
  const bool norms =
      fuses(kernel) && (kernel != ProductKernel::kMatvec || gpu::matvec_norms(weight.matrix, rows));
  return norms ? std::optional(kernel) : std::nullopt;
}

void normed_product(const GpuLaunch& launch, ProductKernel kernel, const NormProduct& call,
                    const NormWeight& weight, const Weight& matrix, Tensor& out, Tensor& total) {
  std::optional<Tensor> residual, shifts;
  if (call.residual) residual = aligned_contiguous(*call.residual);
  if (call.bias) shifts = torch::stable::contiguous(*call.bias);
  std::optional<gpu::Activation> act;
  if (call.gated()) act = gate_of(call.act);
  const gpu::InputNorm norm{residual ? residual->const_data_ptr() : nullptr,
                            weight.data,
                            weight.dtype,
                            call.eps,
                            total.mutable_data_ptr(),
                            weight.at_rest};
  fused_product(launch, kernel, call.x, matrix, act, shifts ? &*shifts : nullptr, out, &norm);
}

std::tuple<Tensor, Tensor> norm_quant_matmul(const Result& result, const Result& total_result,
                                             const Tensor& x, const std::optional<Tensor>& weight,
                                             double eps, const Tensor& qweight, int64_t qtype,
                                             const std::string& act,
                                             const std::optional<Tensor>& bias, int64_t layout,
                                             const std::optional<Tensor>& residual,
                                             const std::optional<Tensor>& x_weight) {
  const NormProduct call{x,        weight,  static_cast<float>(eps), qweight, act, bias, layout,
                         residual, x_weight};
  const QuantTypeInfo& type = call.check(qtype);
  Tensor out =
      result.tensor(kNormProductOp, shape_with_last(x, call.columns()), x.scalar_type(), x);
  Tensor total = total_result.tensor(kNormProductOp, x.sizes(), x.scalar_type(), x);
  if (out.numel() == 0 && total.numel() == 0) return {out, total};
  const GpuLaunch launch(kNormProductOp, x);
  const NormWeight scale(weight), x_scale(x_weight);
  const Weight matrix = weight_of(qweight, type, layout);
  const auto kernel = norming_kernel(launch, call, type, matrix);
  if (out.numel() != 0 && kernel) {
    normed_product(launch, *kernel, call, scale, matrix, out, total);
    return {out, total};
  }
  const Tensor normed = normed_rows(launch, call, scale, x_scale, total);
  if (out.numel() == 0) return {out, total};
  if (call.gated()) {
    gated_product(launch, normed, matrix, type, act, bias, out);
  } else {
    quant_product(launch, normed, matrix, type, bias, out);
  }
  return {out, total};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  implement<&norm_quant_matmul>(m, "norm_quant_matmul");
}

}  // namespace rocmforge
