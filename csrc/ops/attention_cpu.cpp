#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "cpu/dispatch.h"
#include "ops/attention_checks.h"
#include "ops/result.h"
#include "ops/tensor_utils_cpu.h"

namespace rocmforge {
namespace {

constexpr const char* op = "attention";
constexpr int64_t kTileRows = 32;    // query rows, heads of a group included, that share keys
constexpr int64_t kSplitKeys = 512;  // keys per part where there is one tile of queries

// Lengths and pages must lie within the cache. Returns the longest sequence.
int64_t check_places(const cpu::AttentionArgs& args, int64_t batch, int64_t num_blocks,
                     int64_t blocks_per_sequence) {
  const int64_t room = args.block_size * blocks_per_sequence;
  int64_t longest = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t length = args.seq_lens[b];
    check(0 <= length && length <= room, op, "seq_lens must be between 0 and the ", room,
          " positions of the cache, got ", length);
    longest = std::max(longest, length);
    for (int64_t i = 0; args.block_table && i * args.block_size < length; ++i) {
      const int32_t block = args.block_table[b * args.table_stride + i];
      check(0 <= block && block < num_blocks, op, "block_table must hold blocks between 0 and ",
            num_blocks - 1, " wherever seq_lens reaches, got ", block);
    }
  }
  return longest;
}

// How the work is cut; none of it depends on the number of threads.
struct Plan {
  int64_t batch, kv_heads, tile_queries, tiles, splits, num_queries;

  Plan(const cpu::AttentionArgs& args, int64_t batch, int64_t longest)
      : batch(batch), kv_heads(args.num_kv_heads), num_queries(args.num_queries) {
    const int64_t group = args.num_heads / args.num_kv_heads;
    tile_queries = std::min(std::max<int64_t>(1, kTileRows / group), num_queries);
    tiles = (num_queries + tile_queries - 1) / tile_queries;
    splits = tiles == 1 ? std::max<int64_t>(1, (longest + kSplitKeys - 1) / kSplitKeys) : 1;
  }

  int64_t pairs() const { return batch * kv_heads; }

  // Tiles are numbered from both ends by turns: with a causal mask the later ones are longer, and
  // neighbours go to the same thread.
  cpu::AttentionTile tile(int64_t pair, int64_t index, int64_t split) const {
    const int64_t t = index % 2 ? tiles - 1 - index / 2 : index / 2;
    const int64_t first = t * tile_queries;
    const int64_t begin = split * kSplitKeys;
    const int64_t end = splits > 1 ? begin + kSplitKeys : std::numeric_limits<int64_t>::max();
    return {pair / kv_heads, pair % kv_heads,
            first,           std::min(tile_queries, num_queries - first),
            begin,           end};
  }
};

void run(const cpu::AttentionArgs& args, const Plan& plan, int64_t longest) {
  const auto& kernels = cpu::glue_kernels();
  const int64_t rows = plan.tile_queries * (args.num_heads / args.num_kv_heads);
  const int64_t keys = std::min(longest, plan.splits > 1 ? kSplitKeys : longest);
  const int64_t work = rows * keys * (args.head_dim + args.value_dim) / 8;
  const int64_t stride = rows * (args.value_dim + 2);
  std::unique_ptr<float[]> partial;
  if (plan.splits > 1) partial.reset(new float[plan.pairs() * plan.splits * stride]);

  parallel(plan.pairs() * plan.tiles * plan.splits, work, [&](int64_t begin, int64_t end) {
    const std::unique_ptr<float[]> scratch(new float[kernels.attention_scratch(args, rows)]);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t split = i % plan.splits, index = i / plan.splits % plan.tiles;
      const int64_t pair = i / plan.splits / plan.tiles;
      kernels.attention(args, plan.tile(pair, index, split), scratch.get(),
                        partial ? partial.get() + i * stride : nullptr);
    }
  });
  for (int64_t pair = 0; partial && pair < plan.pairs(); ++pair) {
    kernels.attention_join(args, plan.tile(pair, 0, 0), partial.get() + pair * plan.splits * stride,
                           plan.splits, stride);
  }
}

Tensor attention(const Result& result, const Tensor& q, const Tensor& k_cache,
                 const Tensor& v_cache, const Tensor& seq_lens,
                 const std::optional<Tensor>& block_table, std::optional<double> scale, bool causal,
                 int64_t window, double softcap, const std::optional<Tensor>& sinks,
                 const std::optional<Tensor>& alibi_slopes) {
  const AttentionCaches caches = check_attention(q, k_cache, v_cache, seq_lens, block_table, window,
                                                 softcap, sinks, alibi_slopes);

  const Tensor queries = contiguous_rows(q), keys = contiguous_rows(k_cache);
  const Tensor values = contiguous_rows(v_cache), lengths = as_contiguous(seq_lens);
  std::optional<Tensor> table, sink, slopes;
  if (block_table) table = contiguous_rows(*block_table);
  if (sinks) sink = as_contiguous(*sinks);
  if (alibi_slopes) slopes = as_contiguous(*alibi_slopes);
  Tensor out =
      result.tensor(op, {q.size(0), q.size(1), q.size(2), caches.value_dim}, q.scalar_type(), q);

  cpu::AttentionArgs args = {};
  args.q_dtype = cpu_dtype(q);
  args.k_type = caches.k_type;
  args.v_type = caches.v_type;
  args.q = queries.const_data_ptr();
  args.k = keys.const_data_ptr();
  args.v = values.const_data_ptr();
  for (int i = 0; i < 3; ++i) {
    args.q_strides[i] = queries.stride(i);
    args.k_strides[i] = keys.stride(i);
    args.v_strides[i] = values.stride(i);
  }
  args.num_queries = q.size(1);
  args.num_heads = q.size(2);
  args.num_kv_heads = k_cache.size(2);
  args.head_dim = q.size(3);
  args.value_dim = caches.value_dim;
  args.seq_lens = static_cast<const int32_t*>(lengths.const_data_ptr());
  if (table) {
    args.block_table = static_cast<const int32_t*>(table->const_data_ptr());
    args.table_stride = table->stride(0);
  }
  args.block_size = k_cache.size(1);
  args.scale = static_cast<float>(scale ? *scale : 1.0 / std::sqrt(double(args.head_dim)));
  args.causal = causal;
  args.window = window;
  args.softcap = static_cast<float>(softcap);
  args.sinks = sink ? static_cast<const float*>(sink->const_data_ptr()) : nullptr;
  args.alibi_slopes = slopes ? static_cast<const float*>(slopes->const_data_ptr()) : nullptr;
  args.out = out.mutable_data_ptr();

  const int64_t longest =
      check_places(args, q.size(0), k_cache.size(0), table ? table->size(1) : 1);
  if (out.numel() > 0) run(args, Plan(args, q.size(0), longest), longest);
  return out;
}

}  // namespace
}  // namespace rocmforge

STABLE_TORCH_LIBRARY_IMPL(rocmforge, CPU, m) {
  rocmforge::implement<&rocmforge::attention>(m, "attention");
}
