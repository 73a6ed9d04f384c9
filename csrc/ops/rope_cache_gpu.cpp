#include <torch/csrc/stable/library.h>

#include "hip/rope_cache.h"
#include "ops/cache_gpu.h"
#include "ops/control.h"
#include "ops/norm_gpu.h"
#include "ops/rope_cache_checks.h"

namespace rocmforge {
namespace {

Tensor rope_kv_cache_write_(Tensor k_cache, Tensor v_cache, const Tensor& q, const Tensor& k,
                            const Tensor& v, const Tensor& slots, const Tensor& positions,
                            const Tensor& inv_freq, bool interleaved, double scale,
                            const std::optional<Tensor>& q_norm,
                            const std::optional<Tensor>& k_norm, double eps) {
  constexpr const char* op = "rope_kv_cache_write_";
  const CacheWriteArgs args = check_rope_kv_cache_write(op, k_cache, v_cache, q, k, v, slots,
                                                        positions, inv_freq, q_norm, k_norm);
  for (const Tensor* fresh : {&q, &k, &v}) {
    check_token_size(op, *fresh);
    const int64_t head_dim = fresh->size(fresh->dim() - 1);
    check(head_dim <= gpu::kLongestHead, op, "heads on a GPU must have at most ", gpu::kLongestHead,
          " values, got ", head_dim);
  }
  Tensor out = torch::stable::new_empty(q, q.sizes());
  if (args.tokens == 0) return out;
  const GpuLaunch launch(op, q);
  const GpuRows queries(q, 2), keys(k, 2), values(v, 2);
  const Tensor targets = torch::stable::contiguous(slots);
  const Tensor places = torch::stable::contiguous(positions);
  const Tensor frequencies = torch::stable::contiguous(inv_freq);
  const NormWeight q_weight(q_norm), k_weight(k_norm);
  const gpu::QueryHeads heads = {
      queries.data(),      queries.layout,      queries.tensor.stride(q.dim() - 2),
      q.size(q.dim() - 2), q.size(q.dim() - 1), out.mutable_data_ptr()};
  const gpu::CacheTarget k_target = cache_target(args.k_type, k_cache, keys);
  const gpu::CacheTarget v_target = cache_target(args.v_type, v_cache, values);
  const gpu::HeadNorms norms = {q_weight.dtype, q_weight.data, k_weight.dtype, k_weight.data,
                                static_cast<float>(eps)};
  const gpu::Rotation rotation = {places.scalar_type() == ScalarType::Long,
                                  places.const_data_ptr(),
                                  places.numel(),
                                  static_cast<const float*>(frequencies.const_data_ptr()),
                                  frequencies.numel(),
                                  interleaved,
                                  static_cast<float>(scale)};
  launch.done(
      gpu::rope_kv_cache_write(gpu_dtype(q), &heads, &k_target, &v_target, &norms, &rotation,
                               static_cast<const int64_t*>(targets.const_data_ptr()), args.tokens,
                               k_cache.size(0) * k_cache.size(1), k_cache.size(1), k_cache.size(2),
                               inputs_at_rest(), launch.stream()));
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  m.impl("rope_kv_cache_write_", TORCH_BOX(&rocmforge::rope_kv_cache_write_));
}
