// Registers the quantized ops for the CPU: dequantize, quant_matmul, quant_matmul_transposed,
// quant_embedding.
#include <torch/csrc/stable/library.h>

#include "ops/quant_operands_cpu.h"

namespace rocmforge {
namespace {

Tensor dequantize(const Tensor& qweight, int64_t qtype, ScalarType dtype) {
  constexpr const char* op = "dequantize";
  const QuantTypeInfo& type = check_qweight(op, qweight, qtype);
  check_output_dtype(op, dtype);
  const auto [holder, matrix] = held_matrix(qweight, type, 0);
  Tensor out = empty_rows(qweight, matrix.width(), dtype);
  if (out.numel() == 0) return out;
  dequantize_rows(matrix, nullptr, matrix.rows, cpu_dtype(out), out.mutable_data_ptr());
  return out;
}

Tensor quant_embedding(const Tensor& ids, const Tensor& qweight, int64_t qtype, ScalarType dtype) {
  constexpr const char* op = "quant_embedding";
  const QuantTypeInfo& type = check_matrix(op, qweight, qtype);
  check_int(op, "ids", ids);
  check_device(op, "ids", ids, qweight, "qweight");
  check_output_dtype(op, dtype);
  const bool is_long = ids.scalar_type() == ScalarType::Long;
  const Tensor flat = as_contiguous(ids);
  std::vector<int64_t> rows(ids.numel());
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i] = is_long ? static_cast<const int64_t*>(flat.const_data_ptr())[i]
                      : static_cast<const int32_t*>(flat.const_data_ptr())[i];
    check(rows[i] >= 0 && rows[i] < qweight.size(0), op, "ids must be in [0, ", qweight.size(0),
          "), got ", rows[i]);
  }
  const auto [holder, matrix] = held_matrix(qweight, type, 0);
  std::vector<int64_t> shape(ids.dim() + 1, matrix.width());
  for (int64_t i = 0; i < ids.dim(); ++i) shape[i] = ids.size(i);
  Tensor out = empty(shape, dtype);
  if (out.numel() == 0) return out;
  dequantize_rows(matrix, rows.data(), ids.numel(), cpu_dtype(out), out.mutable_data_ptr());
  return out;
}

Tensor quant_matmul(const Tensor& x, const Tensor& qweight, int64_t qtype,
                    const std::optional<Tensor>& bias, int64_t layout) {
  const QuantTypeInfo& type = check_product("quant_matmul", x, qweight, qtype, bias, layout);
  return product(x, qweight, type, bias, layout, std::nullopt);
}

Tensor quant_matmul_transposed(const Tensor& g, const Tensor& qweight, int64_t qtype) {
  constexpr const char* op = "quant_matmul_transposed";
  const QuantTypeInfo& type = check_matrix(op, qweight, qtype);
  check_float(op, "g", g);
  check_dim(op, "g", g, 1);
  check_device(op, "qweight", qweight, g, "g");
  check(g.size(g.dim() - 1) == qweight.size(0), op, "g has ", g.size(g.dim() - 1),
        " features but qweight has ", qweight.size(0), " rows");
  const auto [holder, matrix] = held_matrix(qweight, type, 0);
  Tensor out = empty_rows(g, matrix.width(), g.scalar_type());
  if (out.numel() == 0) return out;
  const Tensor rows = as_contiguous(g);
  multiply_transposed(matrix, rows.const_data_ptr(), out.numel() / matrix.width(), cpu_dtype(g),
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
