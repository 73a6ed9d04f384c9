#pragma once

#include "ops/cache_checks.h"
#include "ops/norm_checks.h"
#include "ops/rope_checks.h"

namespace rocmforge {

// All but the values of the slots.
inline CacheWriteArgs check_rope_kv_cache_write(
    const char* op, const Tensor& k_cache, const Tensor& v_cache, const Tensor& q, const Tensor& k,
    const Tensor& v, const Tensor& slots, const Tensor& positions, const Tensor& inv_freq,
    const std::optional<Tensor>& q_norm, const std::optional<Tensor>& k_norm) {
  check_rope(op, "q", q, positions, inv_freq);
  const CacheWriteArgs args = check_kv_cache_write(op, k_cache, v_cache, k, v, slots);
  const int64_t last = q.dim() - 1;
  std::vector<int64_t> wanted(q.sizes().begin(), q.sizes().end());
  wanted[last - 1] = k.size(k.dim() - 2);
  bool same = k.dim() == q.dim();
  for (int64_t i = 0; same && i <= last; ++i) same = k.size(i) == wanted[i];
  if (!same) fail(op, "k must have shape ", sizes_text(wanted), ", got ", shape_text(k));
  check_same_dtype(op, "k", k, q);
  check_device(op, "k", k, q, "q");
  const ScalarType dtype = q.scalar_type();
  if (q_norm) check_weight(op, "q_norm", *q_norm, q, dtype, ScalarType::Float, "q");
  if (k_norm) check_weight(op, "k_norm", *k_norm, q, dtype, ScalarType::Float, "q");
  return args;
}

}  // namespace rocmforge
