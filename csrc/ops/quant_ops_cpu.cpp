// Registers the quantized ops for the CPU: dequantize, quant_matmul, quant_matmul_transposed,
// quant_embedding. The checks are those of ops/schemas.py, in the same words.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "cpu/dispatch.h"
#include "ops/control.h"
#include "ops/quant_product_cpu.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {
namespace {

using cpu::QuantTypeKernels;

void check_dim(const char* op, const char* name, const Tensor& t) {
  if (t.dim() < 1) fail(op, name, " must have at least 1 dimension(s), got shape ", shape_text(t));
}

const QuantTypeKernels& known_type(const char* op, int64_t qtype) {
  const bool fits = qtype >= 0 && qtype < 1 << 16;
  const QuantTypeKernels* type =
      fits ? cpu::quant_kernels().find(static_cast<int>(qtype)) : nullptr;
  check(type != nullptr, op, "qtype ", qtype, " is not a GGML type of floating point values");
  return *type;
}

const QuantTypeKernels& check_qweight(const char* op, const Tensor& qweight, int64_t qtype) {
  const QuantTypeKernels& type = known_type(op, qtype);
  check_dtype(op, "qweight", qweight, ScalarType::Byte);
  check_dim(op, "qweight", qweight);
  const int64_t bytes = qweight.size(qweight.dim() - 1);
  const int64_t stride = qweight.stride(qweight.dim() - 1);
  check(bytes % type.block_bytes == 0, op, "qweight rows must be a multiple of ", type.block_bytes,
        " bytes (one ", type.name, " block of ", type.block_size, " elements), got ", bytes);
  check(bytes <= type.block_bytes || stride == 1, op,
        "qweight rows must be contiguous: stride 1 in the last dimension, got ", stride);
  return type;
}

const QuantTypeKernels& check_matrix(const char* op, const Tensor& qweight, int64_t qtype) {
  known_type(op, qtype);
  check_dtype(op, "qweight", qweight, ScalarType::Byte);
  if (qweight.dim() != 2)
    fail(op, "qweight must have 2 dimensions [rows, row_bytes], got ", shape_text(qweight));
  return check_qweight(op, qweight, qtype);
}

void check_same_device(const char* op, const char* name, const Tensor& t) {
  check(t.is_cpu(), op, name, " must be on the CPU as the other arguments are");
}

// Rows that kernels can read: contiguous bytes within a row, rows at one distance. Other views are
// copied into `holder`.
BlockMatrix block_matrix(const Tensor& qweight, const QuantTypeKernels& type, Tensor& holder) {
  const int64_t dim = qweight.dim();
  const int64_t bytes = qweight.size(dim - 1);
  holder = qweight;
  const bool rows_apart = dim <= 2 && (bytes <= 1 || qweight.stride(dim - 1) == 1);
  if (!rows_apart && !qweight.is_contiguous()) holder = torch::stable::contiguous(qweight);
  const bool strided = rows_apart && dim == 2;
  return {&type, static_cast<const uint8_t*>(holder.const_data_ptr()),
          bytes ? qweight.numel() / bytes : 0, strided ? holder.stride(0) : bytes,
          bytes / type.block_bytes};
}

// An uninitialised tensor [like.shape[:leading], last]. Several times faster than going through the
// dispatcher, which a product of a microsecond notices.
Tensor empty(const Tensor& like, int64_t leading, int64_t last, ScalarType dtype) {
  std::vector<int64_t> shape(leading + 1, last), strides(leading + 1, 1);
  for (int64_t i = leading - 1; i >= 0; --i) {
    shape[i] = like.size(i);
    strides[i] = strides[i + 1] * std::max<int64_t>(shape[i + 1], 1);
  }
  AtenTensorHandle handle;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      leading + 1, shape.data(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)),
      aoti_torch_device_type_cpu(), 0, &handle));
  return Tensor(handle);
}

void check_output_dtype(const char* op, ScalarType dtype) {
  check(is_float(dtype), op, "dtype must be float32 or float16 or bfloat16, got ",
        dtype_name(dtype));
}

Tensor as_contiguous(const Tensor& t) {
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

Tensor dequantize(const Tensor& qweight, int64_t qtype, ScalarType dtype) {
  const char* op = "dequantize";
  const QuantTypeKernels& type = check_qweight(op, qweight, qtype);
  check_output_dtype(op, dtype);
  Tensor holder;
  const BlockMatrix matrix = block_matrix(qweight, type, holder);
  Tensor out = empty(qweight, qweight.dim() - 1, matrix.width(), dtype);
  if (out.numel() == 0) return out;
  dequantize_rows(matrix, nullptr, matrix.rows, cpu_dtype(out), out.mutable_data_ptr());
  return out;
}

Tensor quant_embedding(const Tensor& ids, const Tensor& qweight, int64_t qtype, ScalarType dtype) {
  const char* op = "quant_embedding";
  const QuantTypeKernels& type = check_matrix(op, qweight, qtype);
  const bool is_long = ids.scalar_type() == ScalarType::Long;
  check(is_long || ids.scalar_type() == ScalarType::Int, op, "ids must be int64 or int32, got ",
        dtype_name(ids.scalar_type()));
  check_same_device(op, "ids", ids);
  check_output_dtype(op, dtype);
  Tensor holder;
  const BlockMatrix matrix = block_matrix(qweight, type, holder);
  const Tensor flat = as_contiguous(ids);
  std::vector<int64_t> rows(ids.numel());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = is_long ? static_cast<const int64_t*>(flat.const_data_ptr())[i]
                      : static_cast<const int32_t*>(flat.const_data_ptr())[i];
    check(rows[i] >= 0 && rows[i] < qweight.size(0), op, "ids must be in [0, ", qweight.size(0),
          "), got ", rows[i]);
  }
  Tensor out = empty(ids, ids.dim(), matrix.width(), dtype);
  if (out.numel() == 0) return out;
  dequantize_rows(matrix, rows.data(), ids.numel(), cpu_dtype(out), out.mutable_data_ptr());
  return out;
}

Tensor quant_matmul(const Tensor& x, const Tensor& qweight, int64_t qtype,
                    const std::optional<Tensor>& bias, int64_t layout) {
  const char* op = "quant_matmul";
  const QuantTypeKernels& type = check_matrix(op, qweight, qtype);
  check_float(op, "x", x);
  check_dim(op, "x", x);
  check_same_device(op, "qweight", qweight);
  check_same_device(op, "x", x);
  const int64_t n = qweight.size(0), k = qweight.size(1) / type.block_bytes * type.block_size;
  check(x.size(x.dim() - 1) == k, op, "x has ", x.size(x.dim() - 1),
        " features but a row of qweight holds ", k, " elements");
  check(layout == 0, op, "layout must be 0 (blocks as the file has them), got ", layout);
  std::vector<float> bias_values;
  if (bias) {
    check_shape(op, "bias", *bias, {n});
    check_same_device(op, "bias", *bias);
    check(bias->scalar_type() == x.scalar_type() || bias->scalar_type() == ScalarType::Float, op,
          "bias must be ", dtype_name(x.scalar_type()), " as x is, or float32, got ",
          dtype_name(bias->scalar_type()));
    bias_values.resize(n);
    cpu::quant_kernels().to_float(cpu_dtype(*bias), as_contiguous(*bias).const_data_ptr(),
                                  bias_values.data(), n);
  }
  Tensor out = empty(x, x.dim() - 1, n, x.scalar_type());
  if (out.numel() == 0) return out;
  Tensor holder;
  const BlockMatrix matrix = block_matrix(qweight, type, holder);
  const Tensor rows = as_contiguous(x);
  multiply({&type, matrix.data, n, matrix.stride, matrix.row_blocks}, rows.const_data_ptr(),
           out.numel() / n, cpu_dtype(x), bias ? bias_values.data() : nullptr, exact(),
           out.mutable_data_ptr());
  return out;
}

Tensor quant_matmul_transposed(const Tensor& g, const Tensor& qweight, int64_t qtype) {
  const char* op = "quant_matmul_transposed";
  const QuantTypeKernels& type = check_matrix(op, qweight, qtype);
  check_float(op, "g", g);
  check_dim(op, "g", g);
  check_same_device(op, "qweight", qweight);
  check_same_device(op, "g", g);
  check(g.size(g.dim() - 1) == qweight.size(0), op, "g has ", g.size(g.dim() - 1),
        " features but qweight has ", qweight.size(0), " rows");
  const int64_t k = qweight.size(1) / type.block_bytes * type.block_size;
  Tensor out = empty(g, g.dim() - 1, k, g.scalar_type());
  if (out.numel() == 0) return out;
  Tensor holder;
  const BlockMatrix matrix = block_matrix(qweight, type, holder);
  const Tensor rows = as_contiguous(g);
  multiply_transposed(matrix, rows.const_data_ptr(), out.numel() / k, cpu_dtype(g),
                      out.mutable_data_ptr());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  m.impl("dequantize", TORCH_BOX(&dequantize));
  m.impl("quant_embedding", TORCH_BOX(&quant_embedding));
  m.impl("quant_matmul", TORCH_BOX(&quant_matmul));
  m.impl("quant_matmul_transposed", TORCH_BOX(&quant_matmul_transposed));
}

}  // namespace rocmforge
