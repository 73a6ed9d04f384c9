// Which format a key-value cache tensor has, for CPU and GPU registrations alike; the twin of
// rocmforge_torch/ops/cache_checks.py.
#pragma once

#include "common/cache_type.h"
#include "ops/checks.h"

namespace rocmforge {

// GGML's blocks that a cache of uint8 can hold. The first that fits counts.
struct CacheBlocks {
  CacheType type;
  int64_t bytes;
};
inline constexpr int64_t kCacheBlock = 32;  // values
inline constexpr CacheBlocks kCacheBlocks[] = {{CacheType::kQ8_0, 34}, {CacheType::kQ4_0, 18}};

inline bool holds_blocks(const Tensor& cache) { return cache.scalar_type() == ScalarType::Byte; }

// What every format asks for: a dtype of one, and [A, S, Hkv, size of a row].
inline void check_cache(const char* op, const char* name, const Tensor& cache) {
  const ScalarType dtype = cache.scalar_type();
  check(is_float(dtype) || dtype == ScalarType::Float8_e4m3fn || dtype == ScalarType::Float8_e5m2 ||
            holds_blocks(cache),
        op, name,
        " must be float32 or float16 or bfloat16 or float8_e4m3fn or float8_e5m2 or uint8, got ",
        dtype_name(dtype));
  if (cache.dim() != 4) fail(op, name, " must be [A, S, Hkv, D], got ", shape_text(cache));
}

// Scales are read as 16-bit numbers.
inline void check_blocks_aligned(const char* op, const char* name, const Tensor& cache) {
  const int64_t start = cache.storage_offset();
  int64_t steps = static_cast<int64_t>(reinterpret_cast<uintptr_t>(cache.const_data_ptr())) | start;
  for (int i = 0; i < 3; ++i) steps |= cache.stride(i);
  if (cache.stride(3) == 1 && steps % 2 == 0) return;
  fail(op, name, " holds blocks: its last stride must be 1, the others and its start even, ",
       "got strides ", sizes_text(cache.strides()), " from ", start);
}

// The format of a cache for heads of `head_dim` values.
inline CacheType check_head(const char* op, const char* name, const Tensor& cache,
                            int64_t head_dim) {
  switch (cache.scalar_type()) {
    case ScalarType::Float:
      return CacheType::kFloat32;
    case ScalarType::Half:
      return CacheType::kFloat16;
    case ScalarType::BFloat16:
      return CacheType::kBFloat16;
    case ScalarType::Float8_e4m3fn:
      return CacheType::kE4M3;
    case ScalarType::Float8_e5m2:
      return CacheType::kE5M2;
    default:
      break;
  }
  check(head_dim % kCacheBlock == 0, op, name,
        " holds blocks: heads must have a multiple of 32 values, got ", head_dim);
  const int64_t blocks = head_dim / kCacheBlock, size = cache.size(3);
  for (const CacheBlocks& format : kCacheBlocks) {
    if (size != blocks * format.bytes) continue;
    check_blocks_aligned(op, name, cache);
    return format.type;
  }
  fail(op, name, " must have ", blocks * kCacheBlocks[0].bytes, " bytes a head (q8_0) or ",
       blocks * kCacheBlocks[1].bytes, " (q4_0) for ", head_dim, " values, got ", size);
}

// The number of values in a head of a cache whose tokens are not at hand; where several answers
// fit, `likely`, then q8_0.
inline int64_t check_value_head(const char* op, const char* name, const Tensor& cache,
                                int64_t likely) {
  const int64_t size = cache.size(3);
  if (!holds_blocks(cache)) return size;
  for (const CacheBlocks& format : kCacheBlocks) {
    if (likely % kCacheBlock == 0 && size == likely / kCacheBlock * format.bytes) return likely;
  }
  for (const CacheBlocks& format : kCacheBlocks) {
    if (size % format.bytes == 0) return size / format.bytes * kCacheBlock;
  }
  fail(op, name, " must have whole q8_0 blocks of 34 bytes or q4_0 blocks of 18 a head, got ",
       size);
}

}  // namespace rocmforge
