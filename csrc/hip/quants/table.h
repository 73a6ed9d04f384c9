// The types that have GPU kernels: one row each.
#pragma once

#include "hip/quants/k_quants.h"
#include "hip/quants/simple.h"

#define ROCMFORGE_QUANT_TYPES(row) row(Q4_0) row(Q8_0) row(Q4_K) row(Q6_K)

namespace rocmforge::gpu {

// Calls body(T{}) with the trait of GGML type `qtype`; false if it has none.
template <typename Body>
bool with_quant_type(int qtype, Body body) {
  switch (qtype) {
#define ROCMFORGE_CASE(T) \
  case T::kType:          \
    body(T{});            \
    return true;
    ROCMFORGE_QUANT_TYPES(ROCMFORGE_CASE)
#undef ROCMFORGE_CASE
    default:
      return false;
  }
}

template <class T>
constexpr int kSteps = T::kBlock / (16 * T::kGroups);  // of a block

// Runs body(integral constant) for 0 to N - 1, unrolled.
template <int N, typename Body, int I = 0>
__device__ __forceinline__ void for_each_group(Body body) {
  if constexpr (I < N) {
    body(std::integral_constant<int, I>{});
    for_each_group<N, Body, I + 1>(body);
  }
}

}  // namespace rocmforge::gpu
