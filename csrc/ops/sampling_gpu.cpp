#include "hip/sampling.h"
#include "ops/gpu.h"
#include "ops/result.h"
#include "ops/row_view.h"
#include "ops/sampling_checks.h"

namespace rocmforge {
namespace {

// A parameter per row, contiguous; holds the tensor that it points into.
template <typename T>
struct PerRow {
  Tensor tensor;

  explicit PerRow(const Tensor& t) : tensor(torch::stable::contiguous(t)) {}
  const T* data() const { return static_cast<const T*>(tensor.const_data_ptr()); }
};

Tensor sample(const Result& result, const Tensor& logits, const Tensor& temperature,
              const Tensor& top_k, const Tensor& top_p, const Tensor& min_p, const Tensor& seed,
              const Tensor& step) {
  constexpr const char* op = "sample";
  check_sample(logits, temperature, top_k, top_p, min_p, seed, step);
  const int64_t batch = logits.size(0), vocab = logits.size(1);
  check(vocab < int64_t{1} << 32, op, "logits must have fewer than 2^32 tokens, got ", vocab);
  Tensor out = result.tensor(op, {batch}, ScalarType::Long, logits);
  if (batch == 0) return out;
  const GpuLaunch launch(op, logits);
  const Tensor rows = contiguous_rows(logits);
  const PerRow<float> temperatures(temperature), top_ps(top_p), min_ps(min_p);
  const PerRow<int64_t> top_ks(top_k), seeds(seed), steps(step);
  const gpu::SampleParams params = {temperatures.data(), top_ks.data(), top_ps.data(),
                                    min_ps.data(),       seeds.data(),  steps.data()};
  Tensor workspace = torch::stable::new_empty(logits, {gpu::sample_workspace_bytes(batch, vocab)},
                                              ScalarType::Byte);
  launch.done(gpu::sample(gpu_dtype(logits), rows.const_data_ptr(), rows.stride(0), &params,
                          workspace.mutable_data_ptr(),
                          static_cast<int64_t*>(out.mutable_data_ptr()), batch, vocab,
                          launch.stream()));
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  rocmforge::implement<&rocmforge::sample>(m, "sample");
}
