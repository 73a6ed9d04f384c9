#include <cmath>

#include "hip/attention.h"
#include "ops/attention_checks.h"
#include "ops/control.h"
#include "ops/gpu.h"
#include "ops/result.h"
#include "ops/row_view.h"

namespace rocmforge {
namespace {

constexpr const char* op = "attention";

// An optional tensor, contiguous; holds what it points into.
template <typename T>
struct Optional {
  std::optional<Tensor> tensor;

  explicit Optional(const std::optional<Tensor>& t) {
    if (t) tensor = torch::stable::contiguous(*t);
  }
  const T* data() const {
    return tensor ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
  }
};

gpu::CacheView cache_view(const Tensor& cache, CacheType type) {
  const auto size = static_cast<int64_t>(cache.element_size());
  return {type, cache.const_data_ptr(), cache.stride(0) * size, cache.stride(1) * size,
          cache.stride(2) * size};
}

Tensor attention(const Result& result, const Tensor& q, const Tensor& k_cache,
                 const Tensor& v_cache, const Tensor& seq_lens,
                 const std::optional<Tensor>& block_table, std::optional<double> scale, bool causal,
                 int64_t window, double softcap, const std::optional<Tensor>& sinks,
                 const std::optional<Tensor>& alibi_slopes) {
  const AttentionCaches caches = check_attention(q, k_cache, v_cache, seq_lens, block_table, window,
                                                 softcap, sinks, alibi_slopes);
  const int64_t head_dim = q.size(3);
  for (const int64_t dim : {head_dim, caches.value_dim}) {
    check(dim <= gpu::kMaxHeadDim, op, "heads on a GPU must have at most ", gpu::kMaxHeadDim,
          " values, got ", dim);
  }
  Tensor out =
      result.tensor(op, {q.size(0), q.size(1), q.size(2), caches.value_dim}, q.scalar_type(), q);
  if (out.numel() == 0) return out;

  const GpuLaunch launch(op, q);
  const Tensor queries = contiguous_rows(q), keys = contiguous_rows(k_cache),
               values = contiguous_rows(v_cache);
  const Tensor lengths = torch::stable::contiguous(seq_lens);
  const Optional<float> sink(sinks), slopes(alibi_slopes);
  const Optional<int32_t> table(block_table);

  gpu::AttentionCall call = {};
  call.dtype = gpu_dtype(q);
  call.q = queries.const_data_ptr();
  call.q_batch_stride = queries.stride(0);
  call.q_token_stride = queries.stride(1);
  call.q_head_stride = queries.stride(2);
  call.k = cache_view(keys, caches.k_type);
  call.v = cache_view(values, caches.v_type);
  call.batch = q.size(0);
  call.queries = q.size(1);
  call.heads = q.size(2);
  call.kv_heads = keys.size(2);
  call.head_dim = head_dim;
  call.value_dim = caches.value_dim;
  call.seq_lens = static_cast<const int32_t*>(lengths.const_data_ptr());
  call.block_table = table.data();
  call.blocks_per_sequence = table.tensor ? table.tensor->size(1) : 1;
  call.table_stride = call.blocks_per_sequence;
  call.block_size = keys.size(1);
  call.num_blocks = keys.size(0);
  call.sinks = sink.data();
  call.alibi_slopes = slopes.data();
  call.out = out.mutable_data_ptr();
  call.window = window;
  call.scale = static_cast<float>(scale ? *scale : 1.0 / std::sqrt(static_cast<double>(head_dim)));
  call.softcap = static_cast<float>(softcap);
  call.causal = causal;
  call.exact = exact();
  call.at_rest = inputs_at_rest();

  Tensor workspace =
      torch::stable::new_empty(q, {gpu::attention_workspace_bytes(&call)}, ScalarType::Byte);
  launch.done(gpu::attention(&call, workspace.mutable_data_ptr(), launch.stream()));
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CUDA, m) {
  rocmforge::implement<&rocmforge::attention>(m, "attention");
}
