// Registers quant_matmul_gated for the GPU. Kernels of our own gate what they have summed; the
// vendor's GEMM computes the product of all 2F rows, then comes the activation on its halves.
#include "hip/activation.h"
#include "hip/dequantize.h"
#include "ops/control.h"
#include "ops/quant_gated_checks.h"
#include "ops/quant_product_gpu.h"

namespace rocmforge {
namespace {

// out [rows, f] = act(first half of each row of product [rows, 2f]) * second half.
void gate_product(const GpuLaunch& launch, const Tensor& product, const std::string& act,
                  int64_t rows, Tensor& out) {
  const int64_t f = out.numel() / rows;
  const auto kernel = act == "silu" ? gpu::silu_mul : gpu::gelu_mul;
  const bool narrow = product.scalar_type() != out.scalar_type();
  Tensor gated = narrow ? torch::stable::new_empty(product, std::vector<int64_t>{rows, f}) : out;
  const gpu::RowLayout halves{1, 2 * f, 0};
  const char* gate = static_cast<const char*>(product.const_data_ptr());
  launch.done(kernel(gpu_dtype(product), gate, &halves, gate + f * product.element_size(), &halves,
                     gated.mutable_data_ptr(), rows, f, launch.stream()));
  if (!narrow) return;
  launch.done(gpu::finish_product(gpu_dtype(gated), gated.const_data_ptr(), rows, f,
                                  gpu::DType::kFloat32, nullptr, gpu_dtype(out),
                                  out.mutable_data_ptr(), f, launch.stream()));
}

}  // namespace

gpu::Activation gate_of(const std::string& act) {
  return act == "silu" ? gpu::Activation::kSilu : gpu::Activation::kGelu;
}

void gated_product(const GpuLaunch& launch, const Tensor& x, const Weight& weight,
                   const QuantTypeInfo& type, const std::string& act,
                   const std::optional<Tensor>& bias, Tensor& out) {
  const int64_t f = last_size(out), rows = out.numel() / f;
  const int64_t k = weight.matrix.cols;
  const ProductKernel kernel = product_kernel(launch.device(), type, rows, k);
  if (k > 0 && fuses(kernel)) {
    std::optional<Tensor> shifts;
    if (bias) shifts = torch::stable::contiguous(*bias);
    return fused_product(launch, kernel, x, weight, gate_of(act), shifts ? &*shifts : nullptr, out);
  }
  const ScalarType dtype = exact() ? ScalarType::Float : x.scalar_type();
  Tensor product = torch::stable::new_empty(x, std::vector<int64_t>{rows, 2 * f}, dtype);
  quant_product(launch, x, weight, type, bias, product);
  gate_product(launch, product, act, rows, out);
}

namespace {

Tensor quant_matmul_gated(const Result& result, const Tensor& x, const Tensor& qweight_gate_up,
                          int64_t qtype, const std::string& act, const std::optional<Tensor>& bias,
                          int64_t layout) {
  const QuantTypeInfo& type = check_gated_product(x, qweight_gate_up, qtype, act, bias, layout);
  const int64_t f = qweight_gate_up.size(0) / 2;
  Tensor out = result.tensor(kGatedOp, shape_with_last(x, f), x.scalar_type(), x);
  if (out.numel() == 0) return out;
  const GpuLaunch launch(kGatedOp, x);
  gated_product(launch, x, weight_of(qweight_gate_up, type, layout), type, act, bias, out);
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  implement<&quant_matmul_gated>(m, "quant_matmul_gated");
}

}  // namespace rocmforge
