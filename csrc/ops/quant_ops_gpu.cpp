// Registers the quantized ops for the GPU: dequantize, quant_embedding, quant_matmul,
// quant_matmul_transposed, pack_weight, unpack_weight.
//
// A product of a few rows is a matvec with integer dot products. Others expand the weight, part by
// part, into a bounded scratch tensor for the vendor's GEMM.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "hip/dequantize.h"
#include "hip/matvec.h"
#include "hip/pack.h"
#include "ops/control.h"
#include "ops/gpu.h"
#include "ops/quant_checks.h"

namespace rocmforge {
namespace {

constexpr int64_t kScratchBytes = int64_t{256} << 20;

int64_t last_size(const Tensor& t) { return t.size(t.dim() - 1); }

// [like.shape[:-1], last]
std::vector<int64_t> shape_with_last(const Tensor& like, int64_t last) {
  std::vector<int64_t> shape(like.dim(), last);
  for (int64_t i = 0; i + 1 < like.dim(); ++i) shape[i] = like.size(i);
  return shape;
}

gpu::DType gpu_dtype_of(ScalarType type) {
  return type == ScalarType::Half       ? gpu::DType::kFloat16
         : type == ScalarType::BFloat16 ? gpu::DType::kBFloat16
                                        : gpu::DType::kFloat32;
}

// A weight as the kernels take it, and the tensor that keeps its memory: a copy of views whose rows
// are not evenly spaced or not aligned.
struct Weight {
  Tensor tensor;
  gpu::QuantMatrix matrix;
};

Weight weight_of(const Tensor& qweight, const QuantTypeInfo& type, int64_t layout) {
  const int64_t dim = qweight.dim(), bytes = last_size(qweight);
  const int64_t align = layout == 0 ? gpu::file_alignment(type.block_bytes) : 16;
  const bool rows_apart = dim == 2 && (bytes <= 1 || qweight.stride(1) == 1);
  const int64_t stride = rows_apart ? qweight.stride(0) : bytes;
  const auto address = reinterpret_cast<uintptr_t>(qweight.const_data_ptr());
  const bool usable = (rows_apart || qweight.is_contiguous()) && address % align == 0 &&
                      (stride % align == 0 || layout == 1);
  Tensor tensor = usable ? qweight : torch::stable::contiguous(torch::stable::clone(qweight));
  return {
      tensor,
      {type.id, static_cast<int>(type.is_quantized() ? layout : 0),
       static_cast<const uint8_t*>(tensor.const_data_ptr()), bytes ? qweight.numel() / bytes : 0,
       bytes / type.block_bytes * type.block_size, usable ? stride : bytes}};
}

Tensor dequantize(const Tensor& qweight, int64_t qtype, ScalarType dtype) {
  constexpr const char* op = "dequantize";
  const QuantTypeInfo& type = check_qweight(op, qweight, qtype);
  check_output_dtype(op, dtype);
  const int64_t k = last_size(qweight) / type.block_bytes * type.block_size;
  Tensor out = torch::stable::new_empty(qweight, shape_with_last(qweight, k), dtype);
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, qweight);
  const Weight weight = weight_of(qweight, type, 0);
  launch.done(gpu::dequantize(weight.matrix, 0, nullptr, weight.matrix.rows, gpu_dtype_of(dtype),
                              out.mutable_data_ptr(), launch.stream()));
  return out;
}

Tensor quant_embedding(const Tensor& ids, const Tensor& qweight, int64_t qtype, ScalarType dtype) {
  constexpr const char* op = "quant_embedding";
  const QuantTypeInfo& type = check_matrix(op, qweight, qtype);
  check_int(op, "ids", ids);
  check_device(op, "ids", ids, qweight, "qweight");
  check_output_dtype(op, dtype);
  const int64_t k = qweight.size(1) / type.block_bytes * type.block_size;
  std::vector<int64_t> shape(ids.dim() + 1, k);
  for (int64_t i = 0; i < ids.dim(); ++i) shape[i] = ids.size(i);
  Tensor out = torch::stable::new_empty(qweight, shape, dtype);
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, qweight);
  const Weight weight = weight_of(qweight, type, 0);
  const Tensor rows = torch::stable::contiguous(torch::stable::to(ids, ScalarType::Long));
  launch.done(gpu::dequantize(weight.matrix, 0, static_cast<const int64_t*>(rows.const_data_ptr()),
                              ids.numel(), gpu_dtype_of(dtype), out.mutable_data_ptr(),
                              launch.stream()));
  return out;
}

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
  const gpu::QuantMatrix& w = weight.matrix;
  const Tensor input = torch::stable::contiguous(x);
  const int64_t rows = x.numel() / w.cols, kernel_rows = gpu::matvec_rows(rows);
  const Tensor workspace = torch::stable::new_empty(
      x, std::vector<int64_t>{gpu::activation_bytes(kernel_rows, w.cols)}, ScalarType::Byte);
  const gpu::QuantActivations codes =
      gpu::place_activations(workspace.mutable_data_ptr(), kernel_rows, w.cols);
  launch.done(gpu::quantize_activations(gpu_dtype(x), input.const_data_ptr(), w.cols, rows, w.cols,
                                        kernel_rows, codes, launch.stream()));
  launch.done(gpu::matvec({w, codes, rows, bias ? bias->const_data_ptr() : nullptr,
                           bias ? gpu_dtype(*bias) : gpu::DType::kFloat32, gpu_dtype(out),
                           out.mutable_data_ptr(), launch.stream()}));
}

Tensor quant_matmul(const Tensor& x, const Tensor& qweight, int64_t qtype,
                    const std::optional<Tensor>& bias, int64_t layout) {
  constexpr const char* op = "quant_matmul";
  const QuantTypeInfo& type = check_matrix(op, qweight, qtype);
  check_float(op, "x", x);
  check_dim(op, "x", x, 1);
  check_device(op, "qweight", qweight, x, "x");
  const int64_t n = qweight.size(0), k = qweight.size(1) / type.block_bytes * type.block_size;
  check(last_size(x) == k, op, "x has ", last_size(x), " features but a row of qweight holds ", k,
        " elements");
  check(layout == 0 || layout == 1, op,
        "layout must be 0 (blocks as the file has them) or 1 (packed), got ", layout);
  check(layout == 0 || qweight.is_contiguous(), op,
        "qweight must be contiguous in layout 1, as pack_weight returns it");
  std::optional<Tensor> shift;
  if (bias) {
    check_bias(op, *bias, n, x);
    shift = torch::stable::contiguous(*bias);
  }
  Tensor out = torch::stable::new_empty(x, shape_with_last(x, n));
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, x);
  const Weight weight = weight_of(qweight, type, layout);
  const Tensor* const shifts = shift ? &*shift : nullptr;
  const bool few = k > 0 && x.numel() / k <= gpu::kMaxMatvecRows;
  if (few && type.is_quantized() && !exact()) {
    few_rows_product(launch, x, weight, shifts, out);
  } else {
    expanded_product(launch, x, weight, type, shifts, out);
  }
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

template <auto Repack>
Tensor repack(const char* op, const Tensor& from, int64_t qtype) {
  const QuantTypeInfo& type = check_matrix(op, from, qtype);
  const Tensor dense = torch::stable::contiguous(from);
  if (!type.is_quantized()) return torch::stable::clone(dense);
  Tensor out = torch::stable::new_empty(from, from.sizes());
  const GpuLaunch launch(op, from);
  launch.done(Repack(type.id, static_cast<const uint8_t*>(dense.const_data_ptr()),
                     static_cast<uint8_t*>(out.mutable_data_ptr()), from.numel() / type.block_bytes,
                     launch.stream()));
  return out;
}

Tensor pack_weight(const Tensor& qweight, int64_t qtype) {
  return repack<gpu::pack_weight>("pack_weight", qweight, qtype);
}

Tensor unpack_weight(const Tensor& packed, int64_t qtype) {
  return repack<gpu::unpack_weight>("unpack_weight", packed, qtype);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  m.impl("dequantize", TORCH_BOX(&dequantize));
  m.impl("quant_embedding", TORCH_BOX(&quant_embedding));
  m.impl("quant_matmul", TORCH_BOX(&quant_matmul));
  m.impl("quant_matmul_transposed", TORCH_BOX(&quant_matmul_transposed));
  m.impl("pack_weight", TORCH_BOX(&pack_weight));
  m.impl("unpack_weight", TORCH_BOX(&unpack_weight));
}

}  // namespace rocmforge
