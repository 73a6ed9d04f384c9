// How kernels write a key-value cache: where a token goes, and in what pieces.
#pragma once

#include <type_traits>

#include "hip/cache.h"
#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/quantize_block.h"

namespace rocmforge::gpu {

// Where tokens go: slots[t], if that is in [0, places), is position slot % block_size of block
// slot / block_size.
struct Slots {
  const int64_t* slots;
  int64_t tokens, places, block_size;

  // Elements from the cache's start, negative for nowhere.
  __device__ __forceinline__ int64_t place(int64_t token, const CacheLayout& layout) const {
    const int64_t slot = slots[token];
    if (slot < 0 || slot >= places) return -1;
    int64_t block;
    if (places >> 32 == 0) {  // 64-bit divisions are slow
      block = static_cast<uint32_t>(slot) / static_cast<uint32_t>(block_size);
    } else {
      block = slot / block_size;
    }
    return block * layout.strides[0] + (slot - block * block_size) * layout.strides[1];
  }
};

template <typename To, typename From>
__device__ __forceinline__ To convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else {
    return from_float<To>(to_float(x));
  }
}

template <typename To, typename From, int kCount>
__device__ __forceinline__ void convert_all(const From (&from)[kCount], To (&to)[kCount]) {
#pragma unroll
  for (int j = 0; j < kCount; ++j) to[j] = convert<To>(from[j]);
}

// A cache as a kernel writes it, in pieces of some values of one head.
struct CacheWrite {
  void* cache;
  const void* fresh;
  CacheLayout layout;
  unsigned pieces;  // of a head
  bool vectors;     // whether every piece starts at an address that is a multiple of its size
};

inline int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

// `moved`: elements of a piece, if all addresses allow it; `to_bytes`: of an element of the cache.
inline CacheWrite cache_write(void* cache, int64_t to_bytes, DType dtype, const void* fresh,
                              const CacheLayout& layout, int64_t moved) {
  int64_t odd = layout.head_dim | layout.head_stride | layout.tokens.outer_stride |
                layout.tokens.inner_stride;
  for (int i = 0; i < 3; ++i) odd |= layout.strides[i];
  const bool vectors = odd % moved == 0 && (layout.head_dim <= 1 || layout.strides[3] == 1) &&
                       reinterpret_cast<uintptr_t>(cache) % (moved * to_bytes) == 0 &&
                       reinterpret_cast<uintptr_t>(fresh) % (moved * element_bytes(dtype)) == 0;
  const int64_t pieces = vectors ? layout.head_dim / moved : layout.head_dim;
  return {cache, fresh, layout, static_cast<unsigned>(pieces), vectors};
}

inline CacheWrite block_write(void* cache, DType dtype, const void* fresh,
                              const CacheLayout& layout) {
  const int64_t bytes = element_bytes(dtype);
  const bool vectors =
      rows_aligned(fresh, layout.tokens, bytes) && is_aligned(nullptr, layout.head_stride * bytes);
  return {cache, fresh, layout, static_cast<unsigned>(layout.head_dim / kLaneValues), vectors};
}

}  // namespace rocmforge::gpu
