#include "hip/cache_formats.h"
#include "hip/cache_write.h"
#include "hip/dispatch.h"
#include "hip/norm_row.h"
#include "hip/rope_cache.h"
#include "hip/rotation.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {
namespace {

// Loops are not unrolled, but for what is read from memory: between two steps of a model others
// have taken this kernel's place in the instruction cache, and code that is not there is waited
// for.

constexpr int kThreads = 256;
constexpr int kRows = kThreads / kShortRow;  // heads at a time, of a block of threads

// Query, key or value: where its heads stand, what they go through, and where they go.
struct Part {
  CacheWrite write;  // for the queries: the result
  CacheType type;
  unsigned heads;
  bool rotated;
  bool aligned;      // every head, to 16 bytes
  const void* norm;  // a weight, or null for none
  DType norm_dtype;
};

enum { kQuery, kKey, kValue, kParts };

struct Args {
  Part parts[kParts];
  unsigned blocks[kParts];  // of threads, for one token
  int row_elements;         // of LDS, for one head
  float eps;
  bool at_rest;
  Rotation rotation;
  Slots slots;
};

template <bool kVectors, typename T>
__device__ __forceinline__ float row_squares(const T* x, int width, int lane) {
  constexpr int kCount = kStepElements<T, kVectors>;
  float squares = 0.0f;
#pragma unroll 1
  for (int first = 0; first < width; first += kShortRow * kCount) {
    T values[kCount];
    load_chunk<kShortRow, kVectors>(x, width, first, lane, values);
    add_squares(values, squares);
  }
  return squares;
}

// What the norm multiplies a head by. All lanes of a wave call it.
template <typename T>
__device__ __forceinline__ float head_factor(const Part& part, const T* x, float eps, int lane,
                                             bool active) {
  const int width = static_cast<int>(part.write.layout.head_dim);
  float squares = 0.0f;
  if (active) {
    squares = part.aligned ? row_squares<true>(x, width, lane) : row_squares<false>(x, width, lane);
  }
  return norm_factor<kShortRow>(squares, width, eps);
}

// One head in LDS, normed and rotated there; weights: of the norm; turns: (sin, cos) of every pair.
template <typename T>
__device__ __forceinline__ void prepare(const Part& part, const float* weights, float factor,
                                        const Rotation& rotation, const float2* turns, int lane,
                                        T* row) {
  const int width = static_cast<int>(part.write.layout.head_dim);
  const auto value = [&](int i) { return part.norm ? normed(row[i], factor, weights[i]) : row[i]; };
  const int pairs = part.rotated ? static_cast<int>(rotation.pairs) : 0;
#pragma unroll 1
  for (int i = lane; i < pairs; i += kShortRow) {
    const int first = rotation.interleaved ? 2 * i : i;
    const int second = rotation.interleaved ? first + 1 : i + pairs;
    const float a = to_float(value(first)), b = to_float(value(second));
    row[first] = from_float<T>(turned_first(a, b, turns[i]));
    row[second] = from_float<T>(turned_second(a, b, turns[i]));
  }
#pragma unroll 1
  for (int i = 2 * pairs + lane; i < width; i += kShortRow) row[i] = value(i);
}

template <typename T>
__device__ __forceinline__ void store_elements(const Part& part, const T* row, int64_t at,
                                               int lane) {
  const int64_t step = part.write.layout.strides[3];
  const int width = static_cast<int>(part.write.layout.head_dim);
  const auto store = [&](auto* to) {
    using Cache = std::remove_pointer_t<decltype(to)>;
#pragma unroll 1
    for (int i = lane; i < width; i += kShortRow) to[at + i * step] = convert<Cache>(row[i]);
  };
  void* to = part.write.cache;
  switch (part.type) {
    case CacheType::kFloat16:
      return store(static_cast<__half*>(to));
    case CacheType::kBFloat16:
      return store(static_cast<gpu_bfloat16*>(to));
    case CacheType::kE4M3:
      return store(static_cast<E4M3*>(to));
    case CacheType::kE5M2:
      return store(static_cast<E5M2*>(to));
    default:
      return store(static_cast<float*>(to));
  }
}

// All lanes of a wave call it; rows that are not active write nothing.
template <class Blocks, typename T>
__device__ __forceinline__ void store_blocks(const Part& part, const T* row, int64_t at, int lane,
                                             bool active) {
  const int pieces = static_cast<int>(part.write.pieces);
#pragma unroll 1
  for (int start = 0; start < pieces; start += kShortRow) {
    const int piece = start + lane;
    const bool is = active && piece < pieces;
    float values[kLaneValues] = {};
    if (is) load_eight(row + piece * kLaneValues, false, values);
    uint8_t* blocks = static_cast<uint8_t*>(part.write.cache) + at;
    Blocks::store(values, piece % kGroupLanes, blocks + piece / kGroupLanes * Blocks::kBytes, is);
  }
}

// blockIdx.y says which heads a block takes of its tokens: some of one part, kShortRow threads
// each. The weights and angles are the same for all of them.
template <typename T>
__global__ void __launch_bounds__(kThreads) rope_kv_cache_write_kernel(Args args) {
  // Attention may read old keys while the kernel ahead of this one runs. Where it has many blocks
  // they would gather where there happens to be room.
  if (args.at_rest && args.slots.tokens == 1) let_next_begin();
  if (!args.at_rest) follow_previous();
  extern __shared__ uint4 lds[];
  float2* turns = reinterpret_cast<float2*>(lds);
  const int lane = threadIdx.x % kShortRow, number = threadIdx.x / kShortRow;
  float* weights = reinterpret_cast<float*>(turns + args.rotation.pairs);
  T* row = reinterpret_cast<T*>(weights + args.row_elements) + number * args.row_elements;
  unsigned block = blockIdx.y, which = 0;
  while (block >= args.blocks[which]) block -= args.blocks[which++];
  const Part& part = args.parts[which];
  const CacheLayout& layout = part.write.layout;
  const unsigned head = block * kRows + number;
  if (part.norm) {
#pragma unroll 1
    for (int i = threadIdx.x; i < layout.head_dim; i += kThreads) {
      weights[i] = load_as(part.norm_dtype, part.norm, i);
    }
  }
#pragma unroll 1
  for (int64_t token = blockIdx.x; token < args.slots.tokens; token += gridDim.x) {
    // All that is read from memory is under way before anything waits.
    const int64_t place =
        which == kQuery ? token * layout.strides[1] : args.slots.place(token, layout);
    const bool is_head = head < part.heads;
    const T* x = static_cast<const T*>(part.write.fresh) + row_offset(layout.tokens, token) +
                 head * layout.head_stride;
    const auto load = [&] {
      if (!is_head) return;
#pragma unroll 4
      for (int i = lane; i < layout.head_dim; i += kShortRow) row[i] = x[i];
    };
    const bool waits = args.at_rest && token == blockIdx.x;
    if (!waits) load();
    if (part.rotated) {
      const float position = position_of(args.rotation, token);
#pragma unroll 1
      for (int i = threadIdx.x; i < args.rotation.pairs; i += kThreads) {
        turns[i] = turn_of(args.rotation, position, i);
      }
    }
    if (waits) {
      follow_previous();
      load();
    }
    const float factor = part.norm ? head_factor(part, x, args.eps, lane, is_head) : 1.0f;
    __syncthreads();
    const bool active = is_head && place >= 0;
    if (active) prepare(part, weights, factor, args.rotation, turns, lane, row);
    __syncthreads();
    const int64_t at = place + head * layout.strides[2];
    if (part.type == CacheType::kQ8_0) {
      store_blocks<QuantizeQ8_0>(part, row, at, lane, active);
    } else if (part.type == CacheType::kQ4_0) {
      store_blocks<QuantizeQ4_0>(part, row, at, lane, active);
    } else if (active) {
      store_elements(part, row, at, lane);
    }
    __syncthreads();  // before the next token's head comes
  }
}

Part part_of(const CacheTarget& target, DType dtype, int64_t heads, bool rotated, const void* norm,
             DType norm_dtype) {
  const CacheLayout& layout = target.layout;
  const CacheWrite write = block_write(target.cache, dtype, target.fresh, layout);
  if (layout.head_dim == 0) heads = 0;
  return {write,
          target.type,
          static_cast<unsigned>(heads),
          rotated,
          write.vectors && layout.head_dim % kLaneValues == 0,
          norm,
          norm_dtype};
}

}  // namespace

Status rope_kv_cache_write(DType dtype, const QueryHeads* q, const CacheTarget* k,
                           const CacheTarget* v, const HeadNorms* norms, const Rotation* rotation,
                           const int64_t* slots, int64_t tokens, int64_t places, int64_t block_size,
                           int64_t kv_heads, bool at_rest, Stream stream) {
  // The dtypes are the first three formats.
  const CacheTarget queries = {
      static_cast<CacheType>(dtype),
      q->out,
      q->x,
      {q->head_dim, {0, q->heads * q->head_dim, q->head_dim, 1}, q->tokens, q->head_stride}};
  const int64_t longest = q->head_dim > v->layout.head_dim ? q->head_dim : v->layout.head_dim;
  Args args = {{part_of(queries, dtype, q->heads, true, norms->q, norms->q_dtype),
                part_of(*k, dtype, kv_heads, true, norms->k, norms->k_dtype),
                part_of(*v, dtype, kv_heads, false, nullptr, DType::kFloat32)},
               {},
               static_cast<int>(longest),
               norms->eps,
               at_rest,
               *rotation,
               {slots, tokens, places, block_size}};
  unsigned blocks = 0;
  for (int i = 0; i < kParts; ++i) {
    args.blocks[i] = (args.parts[i].heads + kRows - 1) / kRows;
    blocks += args.blocks[i];
  }
  if (tokens == 0 || blocks == 0) return nullptr;
  const dim3 grid(grid_size(tokens), blocks);
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    const size_t lds = static_cast<size_t>(rotation->pairs) * sizeof(float2) +
                       static_cast<size_t>(longest) * (sizeof(float) + kRows * sizeof(T));
    launch_early(rope_kv_cache_write_kernel<T>, grid, kThreads, static_cast<int>(lds),
                 static_cast<gpuStream_t>(stream), args);
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
