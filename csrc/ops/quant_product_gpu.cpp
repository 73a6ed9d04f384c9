// Registers quant_matmul and quant_matmul_transposed for the GPU.
//
// A product of a few rows is a matvec with integer dot products. Others expand the weight, part by
// part, into a bounded scratch tensor for the vendor's GEMM.
#include "ops/quant_product_gpu.h"

#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "hip/dequantize.h"
#include "hip/matvec.h"
#include "ops/control.h"

namespace rocmforge {
namespace {

constexpr int64_t kScratchBytes = int64_t{256} << 20;

// A weight of plain numbers of `dtype` as an ordinary tensor, without a copy.
Tensor plain_values(const Weight& weight, ScalarType dtype) {
  const gpu::QuantMatrix& w = weight.matrix;
  const int64_t size = dtype == ScalarType::Float ? 4 : 2;
  const int64_t sizes[] = {w.rows, w.cols}, strides[] = {w.row_bytes / size, 1};
  return torch::stable::from_blob(const_cast<uint8_t*>(w.data), sizes, strides,
                                  weight.tensor.device(), dtype);
}

bool holds(const QuantTypeInfo& type, ScalarType dtype) {
  return !type.is_quantized() && type.id == (dtype == ScalarType::Float  ? 0
                                             : dtype == ScalarType::Half ? 1
                                                                         : 30);
}

void finish(const GpuLaunch& launch, const Tensor& product, const Tensor* bias, int64_t cols,
            const Tensor& out, int64_t first) {
  const int64_t width = last_size(out), size = out.scalar_type() == ScalarType::Float ? 4 : 2;
  const auto* shifts = bias ? static_cast<const char*>(bias->const_data_ptr()) : nullptr;
  const int64_t bias_size = bias && bias->scalar_type() != ScalarType::Float ? 2 : 4;
  const Tensor dense = torch::stable::contiguous(product);
  launch.done(gpu::finish_product(gpu_dtype(dense), dense.const_data_ptr(), product.numel() / cols,
                                  cols, bias ? gpu_dtype(*bias) : gpu::DType::kFloat32,
                                  shifts ? shifts + first * bias_size : nullptr, gpu_dtype(out),
                                  static_cast<char*>(out.mutable_data_ptr()) + first * size, width,
                                  launch.stream()));
}

// x [rows, k] in the type that products are computed in.
Tensor product_input(const Tensor& x) {
  return exact() && x.scalar_type() != ScalarType::Float ? torch::stable::to(x, ScalarType::Float)
                                                         : x;
}

int64_t part_of(int64_t total, int64_t elements_each, ScalarType dtype, int64_t multiple) {
  const int64_t size = dtype == ScalarType::Float ? 4 : 2;
  const int64_t fits = kScratchBytes / size / std::max<int64_t>(elements_each, 1);
  return std::min(total, std::max(fits / multiple * multiple, multiple));
}

// By way of values: out = x . w' + bias.
void expanded_product(const GpuLaunch& launch, const Tensor& x, const Weight& weight,
                      const QuantTypeInfo& type, const Tensor* bias, Tensor& out) {
  const Tensor input = product_input(x);
  const ScalarType dtype = input.scalar_type();
  const gpu::QuantMatrix& w = weight.matrix;
  if (holds(type, dtype)) {
    const Tensor values = plain_values(weight, dtype);
    return finish(launch, torch::stable::matmul(input, torch::stable::transpose(values, 0, 1)),
                  bias, w.rows, out, 0);
  }
  const int64_t part = part_of(w.rows, w.cols, dtype, 1);
  Tensor scratch = torch::stable::new_empty(x, std::vector<int64_t>{part, w.cols}, dtype);
  for (int64_t n = 0; n < w.rows; n += part) {
    const int64_t count = std::min(part, w.rows - n);
    Tensor values = torch::stable::narrow(scratch, 0, 0, count);
    launch.done(gpu::dequantize(w, n, nullptr, count, gpu_dtype_of(dtype),
                                values.mutable_data_ptr(), launch.stream()));
    finish(launch, torch::stable::matmul(input, torch::stable::transpose(values, 0, 1)), bias,
           count, out, n);
  }
}

void few_rows_product(const GpuLaunch& launch, const Tensor& x, const Weight& weight,
                      const Tensor* bias, Tensor& out) {
  const Tensor input = torch::stable::contiguous(x);
  launch.done(
      gpu::matvec({weight.matrix, input.const_data_ptr(), x.numel() / weight.matrix.cols,
                   bias ? bias->const_data_ptr() : nullptr,
                   bias ? gpu_dtype(*bias) : gpu::DType::kFloat32, gpu_dtype(out),
                   out.mutable_data_ptr(), launch.stream()}));
}

}  // namespace

void quant_product(const GpuLaunch& launch, const Tensor& x, const Weight& weight,
                   const QuantTypeInfo& type, const std::optional<Tensor>& bias, Tensor& out) {
  std::optional<Tensor> dense;
  if (bias) dense = torch::stable::contiguous(*bias);
  const Tensor* const shifts = dense ? &*dense : nullptr;
  const int64_t k = weight.matrix.cols;
  const bool few = k > 0 && k <= gpu::kMaxMatvecCols && x.numel() / k <= gpu::kMaxMatvecRows;
  if (few && type.is_quantized() && !exact()) {
    few_rows_product(launch, x, weight, shifts, out);
  } else {
    expanded_product(launch, x, weight, type, shifts, out);
  }
}

namespace {

Tensor quant_matmul(const Tensor& x, const Tensor& qweight, int64_t qtype,
                    const std::optional<Tensor>& bias, int64_t layout) {
  constexpr const char* op = "quant_matmul";
  const QuantTypeInfo& type = check_product(op, x, qweight, qtype, bias, layout);
  Tensor out = torch::stable::new_empty(x, shape_with_last(x, qweight.size(0)));
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, x);
  quant_product(launch, x, weight_of(qweight, type, layout), type, bias, out);
  return out;
}

Tensor quant_matmul_transposed(const Tensor& g, const Tensor& qweight, int64_t qtype) {
  constexpr const char* op = "quant_matmul_transposed";
  const QuantTypeInfo& type = check_matrix(op, qweight, qtype);
  check_float(op, "g", g);
  check_dim(op, "g", g, 1);
  check_device(op, "qweight", qweight, g, "g");
  check(last_size(g) == qweight.size(0), op, "g has ", last_size(g), " features but qweight has ",
        qweight.size(0), " rows");
  const int64_t k = qweight.size(1) / type.block_bytes * type.block_size;
  Tensor out = torch::stable::new_empty(g, shape_with_last(g, k));
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, g);
  const Weight weight = weight_of(qweight, type, 0);
  const Tensor input = product_input(g);
  const ScalarType dtype = input.scalar_type();
  if (holds(type, dtype)) {
    finish(launch, torch::stable::matmul(input, plain_values(weight, dtype)), nullptr, k, out, 0);
    return out;
  }
  // Columns of blocks: every part of the result is one product.
  const gpu::QuantMatrix& w = weight.matrix;
  const int64_t part = part_of(k, w.rows, dtype, type.block_size);
  Tensor scratch = torch::stable::new_empty(g, std::vector<int64_t>{w.rows * part}, dtype);
  for (int64_t first = 0; first < k; first += part) {
    gpu::QuantMatrix columns = w;
    columns.data += first / type.block_size * type.block_bytes;
    columns.cols = std::min(part, k - first);
    Tensor values = torch::stable::narrow(scratch, 0, 0, w.rows * columns.cols);
    values = torch::stable::view(values, std::vector<int64_t>{w.rows, columns.cols});
    launch.done(gpu::dequantize(columns, 0, nullptr, w.rows, gpu_dtype_of(dtype),
                                values.mutable_data_ptr(), launch.stream()));
    finish(launch, torch::stable::matmul(input, values), nullptr, columns.cols, out, first);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  m.impl("quant_matmul", TORCH_BOX(&quant_matmul));
  m.impl("quant_matmul_transposed", TORCH_BOX(&quant_matmul_transposed));
}

}  // namespace rocmforge
