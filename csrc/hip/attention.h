// Attention of new tokens over a cache of keys and values. Lengths and pages are read on the device
// and held to the cache: nothing outside is touched, whatever they say.
#pragma once

#include "common/cache_type.h"
#include "hip/launch.h"

namespace rocmforge::gpu {

// Keys or values: bytes between neighbouring sequences (or pages), positions and heads. The bytes
// of a head are neighbours.
struct CacheView {
  CacheType type;
  const void* data;
  int64_t block_stride, position_stride, head_stride;
};

// See the op for what the arguments mean; null pointers stand for absent tensors.
struct AttentionCall {
  DType dtype;
  const void* q;
  int64_t q_batch_stride, q_token_stride,
      q_head_stride;  // elements; those of a head are neighbours
  CacheView k, v;
  int64_t batch, queries, heads, kv_heads, head_dim, value_dim;
  const int32_t* seq_lens;
  const int32_t* block_table;   // null: sequence b is block b
  int64_t table_stride;         // elements
  int64_t blocks_per_sequence;  // 1 without a table
  int64_t block_size, num_blocks;
  const float* sinks;
  const float* alibi_slopes;
  void* out;  // contiguous [batch, queries, heads, value_dim]
  int64_t window;
  float scale, softcap;
  bool causal;
  bool exact;  // float32 arithmetic whatever the dtypes
  // Whether no kernel that may still run writes to anything but q and the caches' last `queries`
  // positions.
  bool at_rest;
};

// The largest head_dim and value_dim.
constexpr int64_t kMaxHeadDim = 256;

// Bytes of the workspace that `attention` needs, 16-byte aligned. Depends on shapes and the current
// device alone.
int64_t attention_workspace_bytes(const AttentionCall* call);

Status attention(const AttentionCall* call, void* workspace, Stream stream);

}  // namespace rocmforge::gpu
