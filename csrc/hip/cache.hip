#include "hip/cache.h"
#include "hip/cache_formats.h"
#include "hip/cache_write.h"
#include "hip/dispatch.h"
#include "hip/quantize_block.h"

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
    accumulate_kernel(T* __restrict__ dst, const T* src, const int64_t* offset, int64_t last_start,
                      int64_t row_stride, int64_t count) {
  follow_previous();
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
    accumulate_strided_kernel(T* __restrict__ dst, const T* src, const int64_t* offset,
                              int64_t last_start, int64_t row_stride, SharedLayout layout,
                              int64_t count) {
  follow_previous();
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

// What a block of threads takes at a time.
struct Share {
  unsigned heads, tokens_at_once;
};

// Calls body(token, head, piece, is one) for every piece of every token. All threads of a block
// make every call together; the last ones may be for nothing.
template <typename Body>
__device__ __forceinline__ void for_pieces(const Slots& slots, const Share& share, unsigned pieces,
                                           Body body) {
  const unsigned per_token = share.heads * pieces, total = share.tokens_at_once * per_token;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * share.tokens_at_once;
       first < slots.tokens; first += static_cast<int64_t>(gridDim.x) * share.tokens_at_once) {
    for (unsigned start = 0; start < total; start += kThreads) {
      const unsigned i = start + threadIdx.x, token = i / per_token, rest = i - token * per_token;
      const unsigned head = rest / pieces;
      body(first + token, head, rest - head * pieces, i < total && first + token < slots.tokens);
    }
  }
}

// Elements that one thread moves: 16 bytes of the wider type.
template <typename A, typename B>
constexpr int kMoved = 16 / static_cast<int>(sizeof(A) > sizeof(B) ? sizeof(A) : sizeof(B));

template <typename In, typename Cache>
__device__ __forceinline__ void write_elements(const CacheWrite& w, const Slots& slots,
                                               const Share& share) {
  constexpr int kCount = kMoved<In, Cache>;
  for_pieces(slots, share, w.pieces, [&](int64_t token, unsigned head, unsigned piece, bool is) {
    if (!is) return;
    const int64_t place = slots.place(token, w.layout);
    if (place < 0) return;
    const In* from = static_cast<const In*>(w.fresh) + row_offset(w.layout.tokens, token) +
                     head * w.layout.head_stride;
    Cache* to = static_cast<Cache*>(w.cache) + place + head * w.layout.strides[2];
    if (w.vectors) {
      const auto in = reinterpret_cast<const Chunk<In, kCount>*>(from)[piece];
      Chunk<Cache, kCount> out;
      convert_all(in.values, out.values);
      reinterpret_cast<Chunk<Cache, kCount>*>(to)[piece] = out;
    } else {
      to[piece * w.layout.strides[3]] = convert<Cache>(from[piece]);
    }
  });
}

// blockIdx.y: keys or values.
template <typename In, typename Cache>
__global__ void __launch_bounds__(kThreads)
    kv_cache_write_kernel(CacheWrite k, CacheWrite v, Slots slots, Share share) {
  follow_previous();
  if (blockIdx.y == 0) {
    write_elements<In, Cache>(k, slots, share);
  } else {
    write_elements<In, Cache>(v, slots, share);
  }
}

// A piece is what a lane of a quantizer's group takes.
template <class Blocks>
__device__ __forceinline__ void write_blocks(const CacheWrite& w, DType dtype, const Slots& slots,
                                             const Share& share) {
  for_pieces(slots, share, w.pieces, [&](int64_t token, unsigned head, unsigned piece, bool is) {
    const int64_t place = is ? slots.place(token, w.layout) : -1;
    float values[kLaneValues] = {};
    if (place >= 0) {
      const int64_t from = row_offset(w.layout.tokens, token) + head * w.layout.head_stride;
      load_eight(dtype, w.fresh, from + kLaneValues * piece, w.vectors, values);
    }
    uint8_t* row = static_cast<uint8_t*>(w.cache) + place + head * w.layout.strides[2];
    Blocks::store(values, piece % kGroupLanes, row + piece / kGroupLanes * Blocks::kBytes,
                  place >= 0);
  });
}

template <class Blocks>
__global__ void __launch_bounds__(kThreads)
    kv_cache_write_blocks_kernel(CacheWrite k, CacheWrite v, DType dtype, Slots slots,
                                 Share share) {
  follow_previous();
  if (blockIdx.y == 0) {
    write_blocks<Blocks>(k, dtype, slots, share);
  } else {
    write_blocks<Blocks>(v, dtype, slots, share);
  }
}

struct Launch {
  DType dtype;
  Slots slots;
  Share share;
  gpuStream_t stream;

  // As many tokens to a block of threads as keep its threads busy.
  dim3 grid(const CacheWrite& k, const CacheWrite& v, bool both) {
    const unsigned pieces = k.pieces > v.pieces ? k.pieces : v.pieces;
    const int64_t per_token = static_cast<int64_t>(share.heads) * pieces;
    const int64_t at_once = per_token > kThreads ? 1 : kThreads / per_token;
    share.tokens_at_once = static_cast<unsigned>(at_once);
    const int64_t blocks = (slots.tokens + at_once - 1) / at_once;
    return dim3(grid_size(blocks), both ? 2 : 1);
  }
};

// Keys and values of one format, or one cache alone with `both` false.
void write(CacheType type, const CacheTarget& k, const CacheTarget& v, bool both, Launch launch) {
  const auto blocks = [&](auto quantizer) {
    const CacheWrite keys = block_write(k.cache, launch.dtype, k.fresh, k.layout);
    const CacheWrite values = block_write(v.cache, launch.dtype, v.fresh, v.layout);
    const dim3 grid = launch.grid(keys, values, both);
    launch_early(kv_cache_write_blocks_kernel<decltype(quantizer)>, grid, kThreads, 0,
                 launch.stream, keys, values, launch.dtype, launch.slots, launch.share);
  };
  if (type == CacheType::kQ8_0) return blocks(QuantizeQ8_0{});
  if (type == CacheType::kQ4_0) return blocks(QuantizeQ4_0{});
  with_plain_cache_format(type, [&](auto format) {
    with_dtype(launch.dtype, [&](auto element) {
      using Cache = typename decltype(format)::Element;
      using In = decltype(element);
      constexpr int kCount = kMoved<In, Cache>;
      const CacheWrite keys =
          cache_write(k.cache, sizeof(Cache), launch.dtype, k.fresh, k.layout, kCount);
      const CacheWrite values =
          cache_write(v.cache, sizeof(Cache), launch.dtype, v.fresh, v.layout, kCount);
      const dim3 grid = launch.grid(keys, values, both);
      launch_early(kv_cache_write_kernel<In, Cache>, grid, kThreads, 0, launch.stream, keys, values,
                   launch.slots, launch.share);
    });
  });
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
        launch_early(accumulate_kernel<T, kVectors>, grid_size((count + kStep - 1) / kStep),
                     kThreads, 0, launch_stream, to, from, offset, last_start, row_stride, count);
      });
    } else {
      launch_early(accumulate_strided_kernel<T>, grid_size((count + kThreads - 1) / kThreads),
                   kThreads, 0, launch_stream, to, from, offset, last_start, row_stride, *layout,
                   count);
    }
  });
  return launch_status();
}

Status kv_cache_write(const CacheTarget* k, const CacheTarget* v, DType dtype, const int64_t* slots,
                      int64_t tokens, int64_t places, int64_t block_size, int64_t heads,
                      Stream stream) {
  if (tokens == 0 || places == 0 || heads == 0) return nullptr;
  const Launch launch = {dtype,
                         {slots, tokens, places, block_size},
                         {static_cast<unsigned>(heads), 1},
                         static_cast<gpuStream_t>(stream)};
  const bool has_keys = k->layout.head_dim > 0, has_values = v->layout.head_dim > 0;
  if (k->type == v->type && has_keys && has_values) {
    write(k->type, *k, *v, true, launch);
  } else {
    if (has_keys) write(k->type, *k, *k, false, launch);
    if (has_values) write(v->type, *v, *v, false, launch);
  }
  return launch_status();
}

}  // namespace rocmforge::gpu
