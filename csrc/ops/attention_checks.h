// Checks of `attention`, for CPU and GPU registrations alike.
#pragma once

#include "ops/cache_formats.h"

namespace rocmforge {

// The formats of the caches and the size of a value head.
struct AttentionCaches {
  CacheType k_type, v_type;
  int64_t value_dim;
};

inline void check_per_head(const char* op, const char* name, const std::optional<Tensor>& t,
                           const Tensor& q) {
  if (!t) return;
  check_dtype(op, name, *t, ScalarType::Float);
  check_shape(op, name, *t, {q.size(2)});
  check_device(op, name, *t, q, "q");
}

// All but the values of lengths and blocks.
inline AttentionCaches check_attention(const Tensor& q, const Tensor& k, const Tensor& v,
                                       const Tensor& seq_lens,
                                       const std::optional<Tensor>& block_table, int64_t window,
                                       double softcap, const std::optional<Tensor>& sinks,
                                       const std::optional<Tensor>& alibi_slopes) {
  constexpr const char* op = "attention";
  if (q.dim() != 4) fail(op, "q must be [B, T, Hq, D], got ", shape_text(q));
  check_float(op, "q", q);
  check_cache(op, "k_cache", k);
  check_device(op, "k_cache", k, q, "q");
  check_cache(op, "v_cache", v);
  check_device(op, "v_cache", v, q, "q");
  const int64_t batch = q.size(0), heads = q.size(2), kv_heads = k.size(2), head_dim = q.size(3);
  AttentionCaches caches;
  caches.k_type = check_head(op, "k_cache", k, head_dim);
  if (!holds_blocks(k)) check_shape(op, "k_cache", k, {k.size(0), k.size(1), kv_heads, head_dim});
  check_shape(op, "v_cache", v, {k.size(0), k.size(1), kv_heads, v.size(3)});
  caches.value_dim = check_value_head(op, "v_cache", v, head_dim);
  caches.v_type = check_head(op, "v_cache", v, caches.value_dim);
  check(kv_heads > 0 && heads % kv_heads == 0, op, heads, " query heads are no multiple of ",
        kv_heads, " key heads");
  check_dtype(op, "seq_lens", seq_lens, ScalarType::Int);
  check_shape(op, "seq_lens", seq_lens, {batch});
  check_device(op, "seq_lens", seq_lens, q, "q");
  if (block_table) {
    check_dtype(op, "block_table", *block_table, ScalarType::Int);
    if (block_table->dim() != 2 || block_table->size(0) != batch) {
      fail(op, "block_table must be [", batch, ", max_blocks], got ", shape_text(*block_table));
    }
    check_device(op, "block_table", *block_table, q, "q");
  } else {
    check(k.size(0) == batch, op, "k_cache holds ", k.size(0), " sequences, q ", batch);
  }
  check(window >= 0, op, "window must not be negative, got ", window);
  check(softcap >= 0, op, "softcap must not be negative, got ", softcap);
  check_per_head(op, "sinks", sinks, q);
  check_per_head(op, "alibi_slopes", alibi_slopes, q);
  return caches;
}

}  // namespace rocmforge
