// Registers quantize for the CPU. The checks are those of ops/schemas.py.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "cpu/dispatch.h"
#include "cpu/quantize/quantize.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {
namespace {

using cpu::Quantizer;

const Quantizer& check_quantizable(const char* op, int64_t qtype) {
  const bool fits = qtype >= 0 && qtype < 1 << 16;
  const cpu::QuantTypeKernels* type =
      fits ? cpu::quant_kernels().find(static_cast<int>(qtype)) : nullptr;
  check(type != nullptr, op, "qtype ", qtype, " is not a GGML type of floating point values");
  const Quantizer* quantizer = cpu::find_quantizer(static_cast<int>(qtype));
  check(quantizer != nullptr, op, type->name,
        " has no quantizer; types with one: ", cpu::quantizer_names());
  return *quantizer;
}

// Elements that are converted to float32 and quantized at a time.
constexpr int64_t kChunk = 16384;

Tensor quantize(const Tensor& x, int64_t qtype) {
  const char* op = "quantize";
  const Quantizer& quantizer = check_quantizable(op, qtype);
  check_float(op, "x", x);
  check_dim(op, "x", x, 1);
  const int64_t k = x.size(x.dim() - 1);
  check(k % quantizer.block_size == 0, op, "the last dimension of x must be a multiple of ",
        quantizer.name, "'s block size ", quantizer.block_size, ", got ", k);
  std::vector<int64_t> shape;
  for (int64_t i = 0; i < x.dim(); ++i) shape.push_back(x.size(i));
  shape.back() = k / quantizer.block_size * quantizer.block_bytes;
  Tensor out = torch::stable::new_empty(x, shape, ScalarType::Byte);
  const Tensor rows = x.is_contiguous() ? x : torch::stable::contiguous(x);
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

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) { m.impl("quantize", TORCH_BOX(&quantize)); }

}  // namespace rocmforge
