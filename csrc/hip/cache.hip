#include <type_traits>

#include "hip/cache.h"
#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dispatch.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;

template <typename T>
__device__ __forceinline__ T add(T a, T b) {
  return from_float<T>(to_float(a) + to_float(b));
}

// All neighbours in memory: `count` elements.
template <typename T, bool kVectors>
__global__ void __launch_bounds__(kThreads)
    accumulate_kernel(T* __restrict__ dst, const T* __restrict__ src,
                      const int64_t* __restrict__ offset, int64_t last_start, int64_t row_stride,
                      int64_t count) {
  constexpr int kCount = kStepElements<T, kVectors>;
  constexpr int64_t kStep = kThreads * kCount;
  const int64_t start = *offset;
  if (start < 0 || start > last_start) return;
  dst += start * row_stride;
  for (int64_t first = blockIdx.x * kStep; first < count; first += gridDim.x * kStep) {
    const int rest = static_cast<int>(count - first < kStep ? count - first : kStep);
    T sums[kCount], values[kCount];
    load_chunk<kThreads, kVectors>(dst + first, rest, 0, threadIdx.x, sums);
    load_chunk<kThreads, kVectors>(src + first, rest, 0, threadIdx.x, values);
#pragma unroll
    for (int j = 0; j < kCount; ++j) sums[j] = add(sums[j], values[j]);
    store_chunk<kThreads, kVectors>(sums, rest, 0, threadIdx.x, dst + first);
  }
}

// Any strides.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    accumulate_strided_kernel(T* __restrict__ dst, const T* __restrict__ src,
                              const int64_t* __restrict__ offset, int64_t last_start,
                              int64_t row_stride, SharedLayout layout, int64_t count) {
  const int64_t start = *offset;
  if (start < 0 || start > last_start) return;
  dst += start * row_stride;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    int64_t rest = i, to = 0, from = 0;
#pragma unroll
    for (int d = kMaxDims - 1; d >= 0; --d) {
      if (d >= layout.dims) continue;
      const int64_t place = rest % layout.sizes[d];
      rest /= layout.sizes[d];
      to += place * layout.dst_strides[d];
      from += place * layout.src_strides[d];
    }
    dst[to] = add(dst[to], src[from]);
  }
}

template <typename To, typename From>
__device__ __forceinline__ To convert(From x) {
  if constexpr (std::is_same_v<To, From>) {
    return x;
  } else {
    return from_float<To>(to_float(x));
  }
}

// Elements that one thread moves: 16 bytes of the wider type.
template <typename A, typename B>
constexpr int kMoved = 16 / static_cast<int>(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

template <typename In, typename Cache>
struct CacheWrite {
  Cache* cache;
  const In* fresh;
  CacheLayout layout;
  bool vectors;
};

// All heads of one token, on one block.
template <typename In, typename Cache>
__device__ __forceinline__ void write_token(const CacheWrite<In, Cache>& w, int64_t token,
                                            int64_t block, int64_t position, unsigned heads) {
  constexpr int kCount = kMoved<In, Cache>;
  const CacheLayout& layout = w.layout;
  const auto head_dim = static_cast<unsigned>(layout.head_dim);
  const unsigned per_head = w.vectors ? head_dim / kCount : head_dim;
  const In* from = w.fresh + row_offset(layout.tokens, token);
  Cache* to = w.cache + block * layout.strides[0] + position * layout.strides[1];
  for (unsigned i = threadIdx.x; i < heads * per_head; i += kThreads) {
    const unsigned head = i / per_head, place = i % per_head;
    const In* head_from = from + head * layout.head_stride;
    Cache* head_to = to + head * layout.strides[2];
    if (w.vectors) {
      const auto in = reinterpret_cast<const Chunk<In, kCount>*>(head_from)[place];
      Chunk<Cache, kCount> out;
#pragma unroll
      for (int j = 0; j < kCount; ++j) out.values[j] = convert<Cache>(in.values[j]);
      reinterpret_cast<Chunk<Cache, kCount>*>(head_to)[place] = out;
    } else {
      head_to[place * layout.strides[3]] = convert<Cache>(head_from[place]);
    }
  }
}

// blockIdx.y: keys or values.
template <typename In, typename Cache>
__global__ void __launch_bounds__(kThreads)
    kv_cache_write_kernel(CacheWrite<In, Cache> k, CacheWrite<In, Cache> v,
                          const int64_t* __restrict__ slots, int64_t tokens, int64_t places,
                          int64_t block_size, unsigned heads) {
  for (int64_t token = blockIdx.x; token < tokens; token += gridDim.x) {
    const int64_t slot = slots[token];
    if (slot < 0 || slot >= places) continue;
    const int64_t block = slot / block_size, position = slot - block * block_size;
    if (blockIdx.y == 0) {
      write_token(k, token, block, position, heads);
    } else {
      write_token(v, token, block, position, heads);
    }
  }
}

// Whether every head of the cache and of the tokens can be moved kMoved elements at a time.
template <typename In, typename Cache>
CacheWrite<In, Cache> cache_write(void* cache, const void* fresh, const CacheLayout& layout) {
  constexpr int64_t kCount = kMoved<In, Cache>;
  int64_t odd = layout.head_dim | layout.head_stride | layout.tokens.outer_stride |
                layout.tokens.inner_stride;
  for (int i = 0; i < 3; ++i) odd |= layout.strides[i];
  const bool vectors = odd % kCount == 0 && (layout.head_dim <= 1 || layout.strides[3] == 1) &&
                       reinterpret_cast<uintptr_t>(cache) % (kCount * sizeof(Cache)) == 0 &&
                       reinterpret_cast<uintptr_t>(fresh) % (kCount * sizeof(In)) == 0;
  return {static_cast<Cache*>(cache), static_cast<const In*>(fresh), layout, vectors};
}

}  // namespace

Status accumulate(DType dtype, void* dst, const void* src, const int64_t* offset,
                  int64_t last_start, int64_t row_stride, const SharedLayout* layout,
                  Stream stream) {
  int64_t count = 1;
  for (int64_t d = 0; d < layout->dims; ++d) count *= layout->sizes[d];
  if (count == 0) return nullptr;
  const bool neighbours =
      layout->dims == 0 ||
      (layout->dims == 1 &&
       (count == 1 || (layout->dst_strides[0] == 1 && layout->src_strides[0] == 1)));
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    T* to = static_cast<T*>(dst);
    const T* from = static_cast<const T*>(src);
    const auto launch_stream = static_cast<gpuStream_t>(stream);
    if (neighbours) {
      const int64_t row_bytes = row_stride * static_cast<int64_t>(sizeof(T));
      const bool aligned = count % kChunk<T> == 0 && is_aligned(dst, row_bytes) && is_aligned(src);
      with_bool(aligned, [&](auto vectors) {
        constexpr bool kVectors = decltype(vectors)::value;
        constexpr int64_t kStep = kThreads * kStepElements<T, kVectors>;
        accumulate_kernel<T, kVectors>
            <<<grid_size((count + kStep - 1) / kStep), kThreads, 0, launch_stream>>>(
                to, from, offset, last_start, row_stride, count);
      });
    } else {
      accumulate_strided_kernel<T>
          <<<grid_size((count + kThreads - 1) / kThreads), kThreads, 0, launch_stream>>>(
              to, from, offset, last_start, row_stride, *layout, count);
    }
  });
  return launch_status();
}

Status kv_cache_write(DType cache_dtype, void* k_cache, void* v_cache, DType dtype, const void* k,
                      const void* v, const CacheLayout* k_layout, const CacheLayout* v_layout,
                      const int64_t* slots, int64_t tokens, int64_t places, int64_t block_size,
                      int64_t heads, Stream stream) {
  if (tokens == 0 || places == 0 || heads == 0) return nullptr;
  const dim3 grid(grid_size(tokens), 2);
  with_dtype(cache_dtype, [&](auto cache_element) {
    with_dtype(dtype, [&](auto element) {
      using Cache = decltype(cache_element);
      using In = decltype(element);
      kv_cache_write_kernel<In, Cache><<<grid, kThreads, 0, static_cast<gpuStream_t>(stream)>>>(
          cache_write<In, Cache>(k_cache, k, *k_layout),
          cache_write<In, Cache>(v_cache, v, *v_layout), slots, tokens, places, block_size,
          static_cast<unsigned>(heads));
    });
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
