// Registers quant_matmul and quant_matmul_transposed for the GPU.
//
// A product of very few rows is a matvec with integer dot products, one of up to 16 runs on integer
// matrix units, one of some more on float16 ones with weights decoded in registers. Others expand
// the weight, part by part, into a bounded scratch tensor for the vendor's GEMM. Where one kernel
// ends and the next begins is the table's (product_limits.h).
#include "ops/quant_product_gpu.h"

#include <algorithm>
#include <array>

#include "hip/dequantize.h"
#include "hip/multirow.h"
#include "hip/tile.h"
#include "ops/control.h"
#include "ops/product_limits.h"
#include "ops/row_view.h"

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

// out[:, first : first + cols] = product [rows, cols] + bias[first : first + cols], converted.
void finish(const GpuLaunch& launch, const Tensor& product, const Tensor* bias, int64_t cols,
            const Tensor& out, int64_t first) {
  const int64_t width = last_size(out), size = out.scalar_type() == ScalarType::Float ? 4 : 2;
  const auto* shifts = bias ? static_cast<const char*>(bias->const_data_ptr()) : nullptr;
  const int64_t bias_size = bias && bias->scalar_type() != ScalarType::Float ? 2 : 4;
  launch.done(gpu::finish_product(
      gpu_dtype(product), product.const_data_ptr(), product.numel() / cols, cols,
      bias ? gpu_dtype(*bias) : gpu::DType::kFloat32, shifts ? shifts + first * bias_size : nullptr,
      gpu_dtype(out), static_cast<char*>(out.mutable_data_ptr()) + first * size, width,
      launch.stream()));
}

// t [..., k] as a matrix; a copy where its rows are not evenly spaced.
Tensor as_matrix(const Tensor& t, int64_t k) {
  if (t.dim() == 2) return t;
  return torch::stable::view(torch::stable::contiguous(t),
                             std::vector<int64_t>{k ? t.numel() / k : 0, k});
}

// The vendor's GEMM: out = a . b, out's rows perhaps apart.
void multiply_into(Tensor& out, const Tensor& a, const Tensor& b) {
  std::array<StableIValue, 3> stack{torch::stable::detail::from(a), torch::stable::detail::from(b),
                                    torch::stable::detail::from(out)};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::mm", "out", stack.data(), TORCH_ABI_VERSION));
  out = torch::stable::detail::to<Tensor>(stack[0]);
}

// a . b in float32, so that a bias can be added before the one rounding. Torch refuses that of
// float16 where it may also sum in float16 (allow_fp16_accumulation), and of both narrow types
// where composable kernels are the preferred library: the product is in the type of a then.
Tensor wide_product(const Tensor& a, const Tensor& b) {
  using torch::stable::detail::from;
  const std::vector<int64_t> shape{a.size(0), b.size(1)};
  if (a.scalar_type() != ScalarType::Float) {
    const Tensor product = torch::stable::new_empty(a, shape, ScalarType::Float);
    std::array<StableIValue, 4> stack{from(a), from(b), from(ScalarType::Float), from(product)};
    const auto status =
        torch_call_dispatcher("aten::mm", "dtype_out", stack.data(), TORCH_ABI_VERSION);
    if (status == AOTI_TORCH_SUCCESS) return torch::stable::detail::to<Tensor>(stack[0]);
  }
  Tensor product = torch::stable::new_empty(a, shape);
  multiply_into(product, a, b);
  return product;
}

// out[:, first : first + columns of b] = a . b + bias, by a GEMM that writes there itself if it
// can.
void multiply(const GpuLaunch& launch, const Tensor& a, const Tensor& b, const Tensor* bias,
              Tensor& out, int64_t first) {
  const int64_t cols = b.size(1), width = last_size(out);
  if (!bias && a.scalar_type() == out.scalar_type()) {
    Tensor part = torch::stable::view(out, std::vector<int64_t>{out.numel() / width, width});
    part = torch::stable::narrow(part, 1, first, cols);
    return multiply_into(part, a, b);
  }
  finish(launch, wide_product(a, b), bias, cols, out, first);
}

// x [..., k] as a matrix of the type that products are computed in.
Tensor product_input(const Tensor& x) {
  const Tensor rows = as_matrix(x, last_size(x));
  return exact() && x.scalar_type() != ScalarType::Float
             ? torch::stable::to(rows, ScalarType::Float)
             : rows;
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
    return multiply(launch, input, torch::stable::transpose(values, 0, 1), bias, out, 0);
  }
  const int64_t part = part_of(w.rows, w.cols, dtype, 1);
  Tensor scratch = torch::stable::new_empty(x, std::vector<int64_t>{part, w.cols}, dtype);
  for (int64_t n = 0; n < w.rows; n += part) {
    const int64_t count = std::min(part, w.rows - n);
    Tensor values = torch::stable::narrow(scratch, 0, 0, count);
    launch.done(gpu::dequantize(w, n, nullptr, count, gpu_dtype_of(dtype),
                                values.mutable_data_ptr(), launch.stream()));
    multiply(launch, input, torch::stable::transpose(values, 0, 1), bias, out, n);
  }
}

// On matrix units, the weights decoded in registers.
void tile_product(const GpuLaunch& launch, const Tensor& x, const Weight& weight,
                  std::optional<gpu::Activation> act, const Tensor* bias, Tensor& out,
                  const gpu::InputNorm* norm) {
  const gpu::QuantMatrix& w = weight.matrix;
  Tensor input = as_matrix(x, w.cols);
  const int64_t size = x.scalar_type() == ScalarType::Float ? 4 : 2;
  const auto address = reinterpret_cast<uintptr_t>(input.const_data_ptr());
  const bool aligned = address % 16 == 0 && input.stride(0) * size % 16 == 0;
  if (input.stride(1) != 1 || !aligned) input = aligned_contiguous(input);
  const int64_t rows = input.size(0), input_bytes = gpu::tile_input_bytes(rows, w.cols);
  gpu::TileSplits splits{gpu::tile_splits(rows, w.rows, w.cols), nullptr};
  const int64_t sums = splits.count > 1 ? splits.count * rows * w.rows : 0;
  const Tensor workspace = torch::stable::new_empty(
      x, std::vector<int64_t>{input_bytes + sums * int64_t{sizeof(float)}}, ScalarType::Byte);
  auto* const memory = static_cast<char*>(workspace.mutable_data_ptr());
  const gpu::TileInput values = gpu::place_tile_input(memory, rows, w.cols);
  if (sums > 0) splits.sums = reinterpret_cast<float*>(memory + input_bytes);
  launch.done(gpu::tile_input({w.qtype, gpu_dtype(x), input.const_data_ptr(), input.stride(0), rows,
                               w.cols, values, weight.at_rest, launch.stream()},
                              norm));
  launch.done(gpu::tile({w, values, splits, rows, bias ? bias->const_data_ptr() : nullptr,
                         bias ? gpu_dtype(*bias) : gpu::DType::kFloat32, gpu_dtype(out),
                         out.mutable_data_ptr(), act.has_value(),
                         act.value_or(gpu::Activation::kSilu), launch.stream()}));
}

// Products over no columns.
void empty_product(const GpuLaunch& launch, const Tensor* bias, Tensor& out) {
  if (!bias) {
    torch::stable::zero_(out);
    return;
  }
  Tensor zeros = torch::stable::new_empty(out, out.sizes());
  torch::stable::zero_(zeros);
  finish(launch, zeros, bias, last_size(out), out, 0);
}

}  // namespace

ProductKernel product_kernel(int device, const QuantTypeInfo& type, int64_t rows, int64_t k) {
  if (!type.is_quantized() || exact()) return ProductKernel::kExpanded;
  const ProductLimits most = product_limits(device, type.id);
  if (k > 0 && k <= gpu::kMaxMatvecCols) {  // those of integers
    if (rows <= most.matvec) return ProductKernel::kMatvec;
    if (rows <= most.multirow) return ProductKernel::kMultirow;
  }
  return rows <= most.tile ? ProductKernel::kTile : ProductKernel::kExpanded;
}

namespace {

void rounded_product(const GpuLaunch& launch, ProductKernel kernel, const Tensor& x,
                     const Weight& weight, std::optional<gpu::Activation> act, const Tensor* bias,
                     Tensor& out, const gpu::InputNorm* norm) {
  const Tensor input = aligned_contiguous(x);
  const int64_t rows = x.numel() / weight.matrix.cols;
  const auto* const shifts = bias ? bias->const_data_ptr() : nullptr;
  const gpu::DType shift_type = bias ? gpu_dtype(*bias) : gpu::DType::kFloat32;
  if (kernel == ProductKernel::kMatvec) {
    const gpu::MatvecCall call{
        weight.matrix,  input.const_data_ptr(), rows,           shifts,         shift_type,
        gpu_dtype(out), out.mutable_data_ptr(), weight.at_rest, launch.stream()};
    return launch.done(act ? gpu::matvec_gated(call, *act, norm) : gpu::matvec(call, norm));
  }
  const Tensor workspace = torch::stable::new_empty(
      x, std::vector<int64_t>{gpu::multirow_workspace_bytes(rows, weight.matrix.cols)},
      ScalarType::Byte);
  const gpu::MultirowCall call{weight.matrix,  input.const_data_ptr(),
                               rows,           workspace.mutable_data_ptr(),
                               shifts,         shift_type,
                               gpu_dtype(out), out.mutable_data_ptr(),
                               weight.at_rest, launch.stream()};
  launch.done(act ? gpu::multirow_gated(call, *act, norm) : gpu::multirow(call, norm));
}

}  // namespace

bool fuses(ProductKernel kernel) { return kernel != ProductKernel::kExpanded; }

void fused_product(const GpuLaunch& launch, ProductKernel kernel, const Tensor& x,
                   const Weight& weight, std::optional<gpu::Activation> act, const Tensor* bias,
                   Tensor& out, const gpu::InputNorm* norm) {
  if (kernel == ProductKernel::kTile) {
    return tile_product(launch, x, weight, act, bias, out, norm);
  }
  rounded_product(launch, kernel, x, weight, act, bias, out, norm);
}

void quant_product(const GpuLaunch& launch, const Tensor& x, const Weight& weight,
                   const QuantTypeInfo& type, const std::optional<Tensor>& bias, Tensor& out) {
  std::optional<Tensor> dense;
  if (bias) dense = torch::stable::contiguous(*bias);
  const Tensor* const shifts = dense ? &*dense : nullptr;
  const int64_t k = weight.matrix.cols;
  if (k == 0) return empty_product(launch, shifts, out);
  const ProductKernel kernel = product_kernel(launch.device(), type, x.numel() / k, k);
  if (fuses(kernel)) {
    return fused_product(launch, kernel, x, weight, std::nullopt, shifts, out);
  }
  expanded_product(launch, x, weight, type, shifts, out);
}

namespace {

Tensor quant_matmul(const Result& result, const Tensor& x, const Tensor& qweight, int64_t qtype,
                    const std::optional<Tensor>& bias, int64_t layout) {
  constexpr const char* op = "quant_matmul";
  const QuantTypeInfo& type = check_product(op, x, qweight, qtype, bias, layout);
  Tensor out = result.tensor(op, shape_with_last(x, qweight.size(0)), x.scalar_type(), x);
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, x);
  quant_product(launch, x, weight_of(qweight, type, layout), type, bias, out);
  return out;
}

Tensor quant_matmul_transposed(const Result& result, const Tensor& g, const Tensor& qweight,
                               int64_t qtype) {
  constexpr const char* op = "quant_matmul_transposed";
  const QuantTypeInfo& type = check_transposed_product(op, g, qweight, qtype);
  const int64_t k = type.width(qweight.size(1));
  Tensor out = result.tensor(op, shape_with_last(g, k), g.scalar_type(), g);
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, g);
  const Weight weight = weight_of(qweight, type, 0);
  const Tensor input = product_input(g);
  const ScalarType dtype = input.scalar_type();
  if (holds(type, dtype)) {
    multiply(launch, input, plain_values(weight, dtype), nullptr, out, 0);
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
    multiply(launch, input, values, nullptr, out, first);
  }
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  implement<&quant_matmul>(m, "quant_matmul");
  implement<&quant_matmul_transposed>(m, "quant_matmul_transposed");
}

}  // namespace rocmforge
