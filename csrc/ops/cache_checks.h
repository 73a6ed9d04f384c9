#pragma once

#include "ops/checks.h"

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

inline void check_cache(const char* op, const char* name, const char* new_name, const Tensor& cache,
                        const Tensor& fresh, const Tensor& k) {
  if (cache.dim() != 4) fail(op, name, " must be [A, S, Hkv, D], got ", shape_text(cache));
  check_dim(op, new_name, fresh, 2);
  const int64_t dims = fresh.dim();
  bool fits = dims == k.dim() && fresh.size(dims - 2) == cache.size(2) &&
              fresh.size(dims - 1) == cache.size(3);
  for (int64_t i = 0; fits && i < dims - 2; ++i) fits = fresh.size(i) == k.size(i);
  if (!fits) {
    fail(op, new_name, " must have shape [..., ", cache.size(2), ", ", cache.size(3),
         "] with the same tokens as k, got ", shape_text(fresh));
  }
  check_same_dtype(op, new_name, fresh, k);
  check_device(op, name, cache, k, "k");
  check_device(op, new_name, fresh, k, "k");
}

// All but the values of the slots; returns the number of tokens.
inline int64_t check_kv_cache_write(const Tensor& k_cache, const Tensor& v_cache, const Tensor& k,
                                    const Tensor& v, const Tensor& slots) {
  constexpr const char* op = "kv_cache_write_";
  check_float(op, "k_cache", k_cache);
  check_float(op, "k", k);
  check_cache(op, "k_cache", "k", k_cache, k, k);
  check_cache(op, "v_cache", "v", v_cache, v, k);
  check_same_dtype(op, "v_cache", v_cache, k_cache);
  check_shape(op, "v_cache", v_cache,
              {k_cache.size(0), k_cache.size(1), k_cache.size(2), v_cache.size(3)});
  check_dtype(op, "slots", slots, ScalarType::Long);
  int64_t tokens = 1;
  for (int64_t i = 0; i < k.dim() - 2; ++i) tokens *= k.size(i);
  if (slots.numel() != tokens) {
    fail(op, "slots must have one entry for each of the ", tokens, " tokens of k, got ",
         shape_text(slots));
  }
  check_device(op, "slots", slots, k, "k");
  return tokens;
}

}  // namespace rocmforge
