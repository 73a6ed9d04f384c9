// Registers quantize for the CPU.
#include <algorithm>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/quantize/quantize.h"
#include "ops/quantize_checks.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {
namespace {

// Elements that are converted to float32 and quantized at a time.
constexpr int64_t kChunk = 16384;

Tensor quantize(const Result& result, const Tensor& x, int64_t qtype) {
  constexpr const char* op = "quantize";
  const QuantTypeInfo& type = check_quantize(x, qtype);
  const cpu::Quantizer& quantizer = *cpu::find_quantizer(type.id);
  Tensor out = result.tensor(op, blocks_shape(x, type), ScalarType::Byte, x);
  const Tensor rows = as_contiguous(x);
  const auto* in = static_cast<const uint8_t*>(rows.const_data_ptr());
  auto* blocks = static_cast<uint8_t*>(out.mutable_data_ptr());
  const auto to_float = cpu::quant_kernels().to_float;
  const cpu::DType dtype = cpu_dtype(x);
  const int64_t element = x.element_size(), step = kChunk / quantizer.block_size;
  torch::stable::parallel_for(
      0, x.numel() / quantizer.block_size, step, [&](int64_t begin, int64_t end) {
        std::vector<float> values(kChunk);
        for (int64_t b = begin; b < end; b += step) {
          const int64_t count = std::min(step, end - b) * quantizer.block_size;
          to_float(dtype, in + b * quantizer.block_size * element, values.data(), count);
          cpu::quantize_rows(quantizer.qtype, values.data(), blocks + b * quantizer.block_bytes, 1,
                             count);
        }
      });
  return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) { implement<&quantize>(m, "quantize"); }

}  // namespace rocmforge
