// A cache and its new tokens as GPU launchers take them.
#pragma once

#include <limits>

#include "hip/cache.h"
#include "ops/cache_checks.h"
#include "ops/gpu.h"
#include "ops/gpu_rows.h"

namespace rocmforge {

// Kernels count the values of a token in 32 bits.
inline void check_token_size(const char* op, const Tensor& fresh) {
  const int64_t values = fresh.size(fresh.dim() - 2) * fresh.size(fresh.dim() - 1);
  check(values <= std::numeric_limits<int32_t>::max(), op,
        "a token must have fewer than 2^31 elements, got ", values);
}

inline gpu::CacheTarget cache_target(CacheType type, Tensor& cache, const GpuRows& tokens) {
  const Tensor& fresh = tokens.tensor;
  return {type,
          cache.mutable_data_ptr(),
          tokens.data(),
          {fresh.size(fresh.dim() - 1),
           {cache.stride(0), cache.stride(1), cache.stride(2), cache.stride(3)},
           tokens.layout,
           fresh.stride(fresh.dim() - 2)}};
}

}  // namespace rocmforge
