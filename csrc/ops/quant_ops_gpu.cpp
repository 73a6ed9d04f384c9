// Registers dequantize, quant_embedding, pack_weight and unpack_weight for the GPU.
#include "hip/dequantize.h"
#include "hip/pack.h"
#include "ops/quant_gpu.h"

namespace rocmforge {
namespace {

Tensor dequantize(const Result& result, const Tensor& qweight, int64_t qtype, ScalarType dtype) {
  constexpr const char* op = "dequantize";
  const QuantTypeInfo& type = check_qweight(op, qweight, qtype);
  check_output_dtype(op, dtype);
  const int64_t k = type.width(last_size(qweight));
  Tensor out = result.tensor(op, shape_with_last(qweight, k), dtype, qweight);
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, qweight);
  const Weight weight = weight_of(qweight, type, 0);
  launch.done(gpu::dequantize(weight.matrix, 0, nullptr, weight.matrix.rows, gpu_dtype_of(dtype),
                              out.mutable_data_ptr(), launch.stream()));
  return out;
}

Tensor quant_embedding(const Result& result, const Tensor& ids, const Tensor& qweight,
                       int64_t qtype, ScalarType dtype) {
  constexpr const char* op = "quant_embedding";
  const QuantTypeInfo& type = check_embedding(op, ids, qweight, qtype, dtype);
  const int64_t k = type.width(qweight.size(1));
  std::vector<int64_t> shape(ids.sizes().begin(), ids.sizes().end());
  shape.push_back(k);
  Tensor out = result.tensor(op, shape, dtype, qweight);
  if (out.numel() == 0) return out;
  const GpuLaunch launch(op, qweight);
  const Weight weight = weight_of(qweight, type, 0);
  const Tensor rows = torch::stable::contiguous(torch::stable::to(ids, ScalarType::Long));
  launch.done(gpu::dequantize(weight.matrix, 0, static_cast<const int64_t*>(rows.const_data_ptr()),
                              ids.numel(), gpu_dtype_of(dtype), out.mutable_data_ptr(),
                              launch.stream()));
  return out;
}

template <auto Repack>
Tensor repack(const char* op, const Result& result, const char* name, const Tensor& from,
              int64_t qtype) {
  const QuantTypeInfo& type = check_matrix(op, from, qtype, name);
  const Tensor dense = torch::stable::contiguous(from);
  Tensor out = result.tensor(op, from.sizes(), ScalarType::Byte, from);
  if (!type.is_quantized()) {
    torch::stable::copy_(out, dense);
    return out;
  }
  const GpuLaunch launch(op, from);
  launch.done(Repack(type.id, static_cast<const uint8_t*>(dense.const_data_ptr()),
                     static_cast<uint8_t*>(out.mutable_data_ptr()), from.numel() / type.block_bytes,
                     launch.stream()));
  return out;
}

Tensor pack_weight(const Result& result, const Tensor& qweight, int64_t qtype) {
  return repack<gpu::pack_weight>("pack_weight", result, "qweight", qweight, qtype);
}

Tensor unpack_weight(const Result& result, const Tensor& packed, int64_t qtype) {
  return repack<gpu::unpack_weight>("unpack_weight", result, "packed", packed, qtype);
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  implement<&dequantize>(m, "dequantize");
  implement<&quant_embedding>(m, "quant_embedding");
  implement<&pack_weight>(m, "pack_weight");
  implement<&unpack_weight>(m, "unpack_weight");
}

}  // namespace rocmforge
