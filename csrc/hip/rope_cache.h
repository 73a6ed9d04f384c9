#pragma once

#include "hip/cache.h"
#include "hip/launch.h"
#include "hip/rope.h"
#include "hip/rows.h"

namespace rocmforge::gpu {

// The queries: `heads` heads a token, head_stride elements apart; out is contiguous.
struct QueryHeads {
  const void* x;
  RowLayout tokens;
  int64_t head_stride, heads, head_dim;
  void* out;
};

// The weights of the norms, contiguous, of query and key; null for no norm.
struct HeadNorms {
  DType q_dtype;
  const void* q;
  DType k_dtype;
  const void* k;
  float eps;
};

constexpr int64_t kLongestHead = 1024;  // of all three: they stand in LDS

// kv_cache_write of the keys, normed and rotated, and of the values; and the queries, normed and
// rotated: in one launch, with the bits of rms_norm, rope and kv_cache_write (of a norm where heads
// are aligned to 16 bytes and take at most 2048 of them; else its sum has another order). at_rest:
// whether no kernel that may still run writes to positions, slots or weights.
Status rope_kv_cache_write(DType dtype, const QueryHeads* q, const CacheTarget* k,
                           const CacheTarget* v, const HeadNorms* norms, const Rotation* rotation,
                           const int64_t* slots, int64_t tokens, int64_t places, int64_t block_size,
                           int64_t kv_heads, bool at_rest, Stream stream);

}  // namespace rocmforge::gpu
