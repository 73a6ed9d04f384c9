// Prefill reads every key once for each tile of queries, so a cache that is not of 16 bits is
// unpacked first: a kernel writes the keys and values that any query sees as float16 or bfloat16 to
// the workspace, and the tile kernel reads them there. What is unpacked at a time is bounded, so a
// large call is computed in parts: sequences, or some of the key heads of one.
#pragma once

#include "hip/attention.h"

namespace rocmforge::gpu {

// Unpacked keys and values of a part, in bytes; one key head may have more.
constexpr int64_t kMostUnpackedBytes = int64_t{256} << 20;

// The size of a call's parts. Without unpacking there is one.
struct AttentionParts {
  CacheType unpacked;  // what the tile kernel reads
  bool unpacks;
  int64_t batches, kv_heads;
};

// Keys and values as the tile kernel reads them: bfloat16 if either has it, since float16 has not
// its range.
inline CacheType unpacked_type(const AttentionCall& call) {
  const bool wide = call.k.type == CacheType::kBFloat16 || call.v.type == CacheType::kBFloat16;
  return wide ? CacheType::kBFloat16 : CacheType::kFloat16;
}

inline int64_t room_of(const AttentionCall& call) {
  return call.blocks_per_sequence * call.block_size;
}
inline int64_t unpacked_head_bytes(const AttentionCall& call) {
  return room_of(call) * (call.head_dim + call.value_dim) * 2;
}

// The fewest parts within the bound, of nearly the same size.
inline AttentionParts parts_of(const AttentionCall& call, bool tiles) {
  AttentionParts parts = {unpacked_type(call), false, call.batch, call.kv_heads};
  parts.unpacks = tiles && (call.k.type != parts.unpacked || call.v.type != parts.unpacked);
  const int64_t head_bytes = unpacked_head_bytes(call);
  if (!parts.unpacks || head_bytes == 0) return parts;
  const int64_t heads = kMostUnpackedBytes / head_bytes;
  const auto share = [](int64_t all, int64_t most) {
    const int64_t count = most > 0 ? (all + most - 1) / most : all;
    return count > 0 ? (all + count - 1) / count : all;
  };
  parts.batches = share(call.batch, heads / call.kv_heads);
  if (parts.batches == 1) parts.kv_heads = share(call.kv_heads, heads);
  return parts;
}

// The call of the sequences from `batch` on and of their key heads from `kv_head` on. Its `heads`
// are still those of a row of results.
inline AttentionCall part_of(const AttentionCall& call, const AttentionParts& parts, int64_t batch,
                             int64_t kv_head) {
  AttentionCall part = call;
  const int64_t group = call.heads / call.kv_heads, head = kv_head * group;
  const auto rest = [](int64_t all, int64_t first, int64_t most) {
    return all - first < most ? all - first : most;
  };
  part.batch = rest(call.batch, batch, parts.batches);
  part.kv_heads = rest(call.kv_heads, kv_head, parts.kv_heads);
  part.q = static_cast<const uint16_t*>(call.q) + batch * call.q_batch_stride +
           head * call.q_head_stride;
  part.out = static_cast<uint16_t*>(call.out) +
             (batch * call.queries * call.heads + head) * call.value_dim;
  part.seq_lens += batch;
  if (call.sinks != nullptr) part.sinks += head;
  if (call.alibi_slopes != nullptr) part.alibi_slopes += head;
  for (CacheView* view : {&part.k, &part.v}) {
    const int64_t first = call.block_table == nullptr ? batch * view->block_stride : 0;
    view->data = static_cast<const uint8_t*>(view->data) + first + kv_head * view->head_stride;
  }
  if (call.block_table != nullptr) part.block_table += batch * call.table_stride;
  return part;
}

// Unpacks the caches of a part to `scratch`; returns the part that reads them there.
AttentionCall unpack_caches(const AttentionCall& part, CacheType to, void* scratch, Stream stream);

}  // namespace rocmforge::gpu
