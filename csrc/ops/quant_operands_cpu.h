// The arguments of quantized ops as the CPU kernels take them.
#pragma once

#include <vector>

#include "ops/control.h"
#include "ops/quant_checks.h"
#include "ops/quant_product_cpu.h"
#include "ops/result.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {

// A matrix and the tensor that keeps its memory.
struct HeldMatrix {
  Tensor holder;
  BlockMatrix matrix;
};

// Rows that kernels can read: contiguous bytes within a row, rows at one distance. Other views are
// copied. More than two dimensions are rows of the last one.
inline HeldMatrix held_matrix(const Tensor& qweight, const QuantTypeInfo& type, int64_t layout) {
  const int64_t dim = qweight.dim(), bytes = qweight.size(dim - 1);
  const bool rows_apart = dim <= 2 && (bytes <= 1 || qweight.stride(dim - 1) == 1);
  const Tensor holder = rows_apart ? qweight : as_contiguous(qweight);
  const int64_t rows = dim == 2 ? qweight.size(0) : bytes ? qweight.numel() / bytes : 0;
  return {holder,
          {cpu::quant_kernels().find(type.id), static_cast<const uint8_t*>(holder.const_data_ptr()),
           rows, rows_apart && dim == 2 ? holder.stride(0) : bytes, bytes / type.block_bytes,
           layout == 1 ? find_packed_layout(type.id) : nullptr}};
}

// out = the product of arguments that check_product accepted; with `gate`, its halves go through
// it.
inline void product_into(Tensor& out, const Tensor& x, const Tensor& qweight,
                         const QuantTypeInfo& type, const std::optional<Tensor>& bias,
                         int64_t layout, std::optional<cpu::Activation> gate) {
  if (out.numel() == 0) return;
  std::vector<float> shifts;
  if (bias) {
    shifts.resize(bias->numel());
    cpu::quant_kernels().to_float(cpu_dtype(*bias), as_contiguous(*bias).const_data_ptr(),
                                  shifts.data(), bias->numel());
  }
  const int64_t columns = out.size(out.dim() - 1);
  const HeldMatrix weights = held_matrix(qweight, type, layout);
  const Tensor rows = as_contiguous(x);
  multiply(weights.matrix, rows.const_data_ptr(), exact(),
           {out.mutable_data_ptr(), out.numel() / columns, cpu_dtype(x),
            bias ? shifts.data() : nullptr, gate, columns});
}

inline Tensor product(const char* op, const Result& result, const Tensor& x, const Tensor& qweight,
                      const QuantTypeInfo& type, const std::optional<Tensor>& bias, int64_t layout,
                      std::optional<cpu::Activation> gate) {
  const int64_t columns = qweight.size(0) / (gate ? 2 : 1);
  Tensor out = result.tensor(op, shape_with_last(x, columns), x.scalar_type(), x);
  product_into(out, x, qweight, type, bias, layout, gate);
  return out;
}

}  // namespace rocmforge
