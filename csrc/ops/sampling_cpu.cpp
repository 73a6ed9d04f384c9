#include <vector>

#include "cpu/dispatch.h"
#include "cpu/sampling.h"
#include "ops/result.h"
#include "ops/sampling_checks.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {
namespace {

template <typename T>
T item(const Tensor& t, int64_t i) {
  return static_cast<const T*>(t.const_data_ptr())[i * t.stride(0)];
}

Tensor sample(const Result& result, const Tensor& logits, const Tensor& temperature,
              const Tensor& top_k, const Tensor& top_p, const Tensor& min_p, const Tensor& seed,
              const Tensor& step) {
  constexpr const char* op = "sample";
  check_sample(logits, temperature, top_k, top_p, min_p, seed, step);
  const int64_t batch = logits.size(0), vocab = logits.size(1);
  const Tensor rows = contiguous_rows(logits);
  const cpu::DType dtype = cpu_dtype(logits);
  Tensor out = result.tensor(op, {batch}, ScalarType::Long, logits);
  int64_t* ids = static_cast<int64_t*>(out.mutable_data_ptr());
  parallel(batch, vocab, [&](int64_t begin, int64_t end) {
    cpu::Sampler sampler;
    std::vector<float> converted(dtype == cpu::DType::kFloat32 ? 0 : vocab);
    for (int64_t row = begin; row < end; ++row) {
      const char* data = static_cast<const char*>(rows.const_data_ptr()) +
                         row * rows.stride(0) * static_cast<int64_t>(rows.element_size());
      const float* values = reinterpret_cast<const float*>(data);
      if (!converted.empty()) {
        cpu::glue_kernels().convert(dtype, data, CacheType::kFloat32, converted.data(), vocab);
        values = converted.data();
      }
      const cpu::SampleParams params = {item<float>(temperature, row),
                                        item<int64_t>(top_k, row),
                                        item<float>(top_p, row),
                                        item<float>(min_p, row),
                                        static_cast<uint64_t>(item<int64_t>(seed, row)),
                                        static_cast<uint64_t>(item<int64_t>(step, row))};
      ids[row] = sampler.sample(values, vocab, params);
    }
  });
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  rocmforge::implement<&rocmforge::sample>(m, "sample");
}
