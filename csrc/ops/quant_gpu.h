// What the GPU registrations of the ops on quantized weights share.
#pragma once

#include "hip/matrix.h"
#include "ops/control.h"
#include "ops/gpu.h"
#include "ops/quant_checks.h"
#include "ops/result.h"

namespace rocmforge {

inline int64_t last_size(const Tensor& t) { return t.size(t.dim() - 1); }

inline gpu::DType gpu_dtype_of(ScalarType type) {
  return type == ScalarType::Half       ? gpu::DType::kFloat16
         : type == ScalarType::BFloat16 ? gpu::DType::kBFloat16
                                        : gpu::DType::kFloat32;
}

// A weight as the kernels take it, and the tensor that keeps its memory: a copy of views whose rows
// are not evenly spaced or not aligned.
struct Weight {
  Tensor tensor;
  gpu::QuantMatrix matrix;
  bool at_rest;  // see inputs_at_rest()
};

inline Weight weight_of(const Tensor& qweight, const QuantTypeInfo& type, int64_t layout) {
  const int64_t dim = qweight.dim(), bytes = last_size(qweight);
  const int64_t align = layout == 0 ? gpu::file_alignment(type.block_bytes) : 16;
  const bool rows_apart = dim == 2 && (bytes <= 1 || qweight.stride(1) == 1);
  const int64_t stride = rows_apart ? qweight.stride(0) : bytes;
  const auto address = reinterpret_cast<uintptr_t>(qweight.const_data_ptr());
  const bool usable = (rows_apart || qweight.is_contiguous()) && address % align == 0 &&
                      (stride % align == 0 || layout == 1);
  Tensor tensor = usable ? qweight : torch::stable::contiguous(torch::stable::clone(qweight));
  return {tensor,
          {type.id, static_cast<int>(type.is_quantized() ? layout : 0),
           static_cast<const uint8_t*>(tensor.const_data_ptr()),
           bytes ? qweight.numel() / bytes : 0, type.width(bytes), usable ? stride : bytes},
          usable && inputs_at_rest()};
}

}  // namespace rocmforge
