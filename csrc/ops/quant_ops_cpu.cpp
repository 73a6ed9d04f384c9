// Registers the quantized ops for the CPU: dequantize, quant_matmul, quant_matmul_transposed,
// quant_embedding.
#include "ops/quant_operands_cpu.h"

namespace rocmforge {
namespace {

Tensor dequantize(const Result& result, const Tensor& qweight, int64_t qtype, ScalarType dtype) {
  constexpr const char* op = "dequantize";
  const QuantTypeInfo& type = check_qweight(op, qweight, qtype);
  check_output_dtype(op, dtype);
  const auto [holder, matrix] = held_matrix(qweight, type, 0);
  Tensor out = result.tensor(op, shape_with_last(qweight, matrix.width()), dtype, qweight);
  if (out.numel() == 0) return out;
  dequantize_rows(matrix, nullptr, matrix.rows, cpu_dtype(out), out.mutable_data_ptr());
  return out;
}

Tensor quant_embedding(const Result& result, const Tensor& ids, const Tensor& qweight,
                       int64_t qtype, ScalarType dtype) {
  constexpr const char* op = "quant_embedding";
  const QuantTypeInfo& type = check_embedding(op, ids, qweight, qtype, dtype);
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
  std::vector<int64_t> shape(ids.sizes().begin(), ids.sizes().end());
  shape.push_back(matrix.width());
  Tensor out = result.tensor(op, shape, dtype, qweight);
  if (out.numel() == 0) return out;
  dequantize_rows(matrix, rows.data(), ids.numel(), cpu_dtype(out), out.mutable_data_ptr());
  return out;
}

Tensor quant_matmul(const Result& result, const Tensor& x, const Tensor& qweight, int64_t qtype,
                    const std::optional<Tensor>& bias, int64_t layout) {
  constexpr const char* op = "quant_matmul";
  const QuantTypeInfo& type = check_product(op, x, qweight, qtype, bias, layout);
  return product(op, result, x, qweight, type, bias, layout, std::nullopt);
}

Tensor quant_matmul_transposed(const Result& result, const Tensor& g, const Tensor& qweight,
                               int64_t qtype) {
  constexpr const char* op = "quant_matmul_transposed";
  const QuantTypeInfo& type = check_transposed_product(op, g, qweight, qtype);
  const auto [holder, matrix] = held_matrix(qweight, type, 0);
  Tensor out = result.tensor(op, shape_with_last(g, matrix.width()), g.scalar_type(), g);
  if (out.numel() == 0) return out;
  const Tensor rows = as_contiguous(g);
  multiply_transposed(matrix, rows.const_data_ptr(), out.numel() / matrix.width(), cpu_dtype(g),
                      out.mutable_data_ptr());
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  implement<&dequantize>(m, "dequantize");
  implement<&quant_embedding>(m, "quant_embedding");
  implement<&quant_matmul>(m, "quant_matmul");
  implement<&quant_matmul_transposed>(m, "quant_matmul_transposed");
}

}  // namespace rocmforge
