#pragma once

#include <vector>

#include "ops/cache_formats.h"

namespace rocmforge {

// All but the value of the offset.
inline void check_accumulate(const Tensor& dst, const Tensor& src, const Tensor& offset) {
  constexpr const char* op = "accumulate_";
  check_float(op, "dst", dst);
  check_dim(op, "dst", dst, 1);
  check_dim(op, "src", src, 1);
  bool fits = src.dim() == dst.dim();
  for (int64_t i = 1; fits && i < src.dim(); ++i) fits = src.size(i) == dst.size(i);
  if (!fits) {
    fail(op, "src must have dst's shape ", shape_text(dst), " but for the first dimension, got ",
         shape_text(src));
  }
  check_same_dtype(op, "src", src, dst);
  check_device(op, "src", src, dst, "dst");
  check(src.size(0) <= dst.size(0), op, "src has ", src.size(0), " rows but dst has only ",
        dst.size(0));
  check_dtype(op, "offset", offset, ScalarType::Long);
  if (offset.numel() != 1 || offset.dim() > 1) {
    fail(op, "offset must have shape [] or [1], got ", shape_text(offset));
  }
  check_device(op, "offset", offset, dst, "dst");
}

// New keys or values and where they go; returns the cache's format.
inline CacheType check_new_tokens(const char* op, const char* cache_name, const char* name,
                                  const Tensor& cache, const Tensor& fresh, const Tensor& k) {
  check_cache(op, cache_name, cache);
  check_device(op, cache_name, cache, k, "k");
  check_float(op, name, fresh);
  check_dim(op, name, fresh, 2);
  const int64_t head_dim = fresh.size(fresh.dim() - 1);
  const CacheType type = check_head(op, cache_name, cache, head_dim);
  std::vector<int64_t> wanted;
  for (int64_t i = 0; i < k.dim() - 2; ++i) wanted.push_back(k.size(i));
  wanted.push_back(cache.size(2));
  wanted.push_back(holds_blocks(cache) ? head_dim : cache.size(3));
  bool same = fresh.dim() == static_cast<int64_t>(wanted.size());
  for (int64_t i = 0; same && i < fresh.dim(); ++i) same = fresh.size(i) == wanted[i];
  if (!same) {
    fail(op, name, " must have shape ", sizes_text(wanted), ", got ", shape_text(fresh));
  }
  check_same_dtype(op, name, fresh, k);
  check_device(op, name, fresh, k, "k");
  return type;
}

struct CacheWriteArgs {
  CacheType k_type, v_type;
  int64_t tokens;
};

// All but the values of the slots.
inline CacheWriteArgs check_kv_cache_write(const char* op, const Tensor& k_cache,
                                           const Tensor& v_cache, const Tensor& k, const Tensor& v,
                                           const Tensor& slots) {
  CacheWriteArgs args = {};
  args.k_type = check_new_tokens(op, "k_cache", "k", k_cache, k, k);
  args.v_type = check_new_tokens(op, "v_cache", "v", v_cache, v, k);
  check_shape(op, "v_cache", v_cache,
              {k_cache.size(0), k_cache.size(1), k_cache.size(2), v_cache.size(3)});
  check_dtype(op, "slots", slots, ScalarType::Long);
  args.tokens = 1;
  for (int64_t i = 0; i < k.dim() - 2; ++i) args.tokens *= k.size(i);
  if (slots.numel() != args.tokens) {
    fail(op, "slots must have one entry for each of the ", args.tokens, " tokens of k, got ",
         shape_text(slots));
  }
  check_device(op, "slots", slots, k, "k");
  return args;
}

}  // namespace rocmforge
