// Attention of many query rows: a block of waves, 16 rows each, walks over the keys that any of its
// rows sees. Keys and values come through LDS as float16 or bfloat16, values transposed.
#pragma once

#include "hip/attention_matrix.h"

namespace rocmforge::gpu {

// Caches whose formats are known at run time alone.
struct AnyCache {};

// Calls body(format) with the format of a cache.
template <class Format, typename Body>
__device__ __forceinline__ void with_tile_format(const CacheView& view, Body body) {
  if constexpr (!std::is_same_v<Format, AnyCache>) {
    body(Format{});
  } else {
    with_cache_format(view.type, [&](auto format) {
      // float32 is not for matrix units.
      if constexpr (decltype(format)::kType != CacheType::kFloat32) body(format);
    });
  }
}

// What follows from the size of a head.
template <typename T, int kBucket>
struct TileShape {
  static constexpr int kWaves = tile_waves(kBucket), kThreads = kWaves * kWaveSize;
  static constexpr int kDimParts = tile_dim_parts(kBucket), kDimTiles = kBucket / 16 / kDimParts;
  static constexpr int kSteps = kBucket / kMmaDepth;
  static constexpr bool kLarge = kBucket > 128;
  static constexpr int kKeys = kLarge && kChunkKeys < 64 ? 32 : 64;
  static constexpr int kChunks = kKeys / kChunkKeys;
  // Large heads leave no room for keys and values at once.
  static constexpr bool kShared = kLarge && kChunks == 1;
  static constexpr bool kQueriesHeld = kBucket <= 64;
  // Rows are 16 bytes longer than their values: reads of neighbouring rows meet other banks.
  static constexpr int kKeyStride = kBucket + 8, kValueStride = kKeys + 8;
  static constexpr int kKeySize = kKeys * kKeyStride, kValueSize = kBucket * kValueStride;
  static constexpr int kSize =
      kShared ? (kKeySize > kValueSize ? kKeySize : kValueSize) : kKeySize + kValueSize;
  // Pieces of eight values, and pairs of them of two neighbouring keys.
  static constexpr int kBlocks = kBucket / 8;
  static constexpr int kPieces = kKeys * kBlocks / kThreads;
  static constexpr int kPairs = (kKeys / 2 * kBlocks + kThreads - 1) / kThreads;
  static_assert(kKeys * kBlocks % kThreads == 0, "threads have equal shares of the keys");
};

// A thread's share of moving a tile of keys and values to LDS.
template <typename T, int kBucket, class Format>
struct TileMover {
  using Shape = TileShape<T, kBucket>;
  // A few loads under way for each thread; less code where it is there for every format.
  static constexpr bool kKnown = !std::is_same_v<Format, AnyCache>;
  static constexpr int kKeyLoads = kKnown && !Shape::kLarge ? 8 : 2;
  static constexpr int kValueLoads = kKnown && !Shape::kLarge ? 4 : 1;
  const AttentionCall& call;
  const Work& work;
  KeyRange range;

  __device__ __forceinline__ const uint8_t* row(const CacheView& view, int key) const {
    return cache_row(call, view, work.batch, work.kv_head, key < range.end ? key : range.end - 1);
  }

  // The keys from `first` on, in the order of the tiles' rows. Zeros where a head has ended.
  __device__ __forceinline__ void move_keys(int first, T* keys) const {
    with_tile_format<Format>(call.k, [&](auto format) {
#pragma unroll kKeyLoads
      for (int i = 0; i < Shape::kPieces; ++i) {
        const int index = threadIdx.x + i * Shape::kThreads;
        const int key = index / Shape::kBlocks, dim = index % Shape::kBlocks * 8;
        uint32_t piece[4] = {};
        if (dim < call.head_dim) {
          load_pairs<decltype(format), T>(row(call.k, first + key), dim, piece);
        }
        const int to = key / kChunkKeys * kChunkKeys + key_row(key % kChunkKeys);
        *reinterpret_cast<uint4*>(keys + to * Shape::kKeyStride + dim) =
            make_uint4(piece[0], piece[1], piece[2], piece[3]);
      }
    });
  }

  // Neighbouring threads read 32 bytes of a key and write neighbouring keys.
  __device__ __forceinline__ void move_values(int first, T* values) const {
    with_tile_format<Format>(call.v, [&](auto format) {
#pragma unroll kValueLoads
      for (int i = 0; i < Shape::kPairs; ++i) {
        const int index = threadIdx.x + i * Shape::kThreads;
        const int key = index / 2 % (Shape::kKeys / 2) * 2;
        const int dim = (index % 2 + index / Shape::kKeys * 2) * 8;
        if (dim >= kBucket) continue;  // the last share may be larger than what is left
        uint32_t even[4] = {}, odd[4] = {};
        if (dim < call.value_dim) {
          load_pairs<decltype(format), T>(row(call.v, first + key), dim, even);
          load_pairs<decltype(format), T>(row(call.v, first + key + 1), dim, odd);
        }
#pragma unroll
        for (int w = 0; w < 4; ++w) {
          T* to = values + (dim + 2 * w) * Shape::kValueStride + key;
          *reinterpret_cast<uint32_t*>(to) = (even[w] & 0xffff) | odd[w] << 16;
          *reinterpret_cast<uint32_t*>(to + Shape::kValueStride) =
              even[w] >> 16 | (odd[w] & 0xffff0000u);
        }
      }
    });
  }
};

template <typename T, int kBucket, class Format>
__global__ void __launch_bounds__(tile_waves(kBucket) * kWaveSize, kBucket <= 128 ? 2 : 1)
    attention_tile_kernel(AttentionCall call, AttentionPlan plan, Partials partials) {
  using Shape = TileShape<T, kBucket>;
  __shared__ __align__(16) T memory[Shape::kSize];
  T* const keys = memory;
  T* const values = memory + (Shape::kShared ? 0 : Shape::kKeySize);

  Work work = work_of(call, plan, blockIdx.x);
  work.tile = plan.tiles - 1 - work.tile;  // those that see the most keys start first
  const int wave = threadIdx.x / kWaveSize, lane = threadIdx.x % kWaveSize;
  const int head_dim = static_cast<int>(call.head_dim), dims = static_cast<int>(call.value_dim);
  const int64_t group = call.heads / call.kv_heads;
  const int length = sequence_length(call, work.batch);
  const int64_t first_row = int64_t{work.tile} * kTileRows;
  const int64_t last_row =
      first_row + kTileRows < plan.rows ? first_row + kTileRows - 1 : plan.rows - 1;
  KeyRange range = tile_keys(call, length, first_row / group, last_row / group);
  range.begin -= range.begin % Shape::kKeys;
  range = split_keys(range, work.split, plan.splits, Shape::kKeys);

  // The wave's rows: those that there are not are the last one's, and never written.
  const int64_t wave_row = first_row + wave / Shape::kDimParts * 16;
  const int first_dim = wave % Shape::kDimParts * Shape::kDimTiles * 16;
  const int rows = static_cast<int>(wave_row > last_row        ? 0
                                    : wave_row + 15 < last_row ? 16
                                                               : last_row - wave_row + 1);
  const int64_t wave_first = (rows > 0 ? wave_row : last_row) / group;
  const int64_t wave_last = (rows > 0 ? wave_row + rows - 1 : last_row) / group;
  const KeyRange any = tile_keys(call, length, wave_first, wave_last);
  const KeyRange common = common_keys(call, length, wave_first, wave_last);

  const ScoreRule rule(call);
  Scoring scoring[kLaneQueries];
  Softmax softmax;
  const uint16_t* queries[kLaneQueries];
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    const int64_t own = wave_row + lane_query(lane, i), passed = wave_row + query_row(lane, i);
    const int64_t row = own < last_row ? own : last_row;
    scoring[i] = scoring_of(call, length, work.kv_head, row);
    softmax.start(i, first_stats(call, work.kv_head, row, work.split));
    queries[i] =
        static_cast<const uint16_t*>(call.q) +
        query_offset(call, work.batch, work.kv_head, passed < last_row ? passed : last_row);
  }
  const auto load_queries = [&](int step, Span<T>(&spans)[kLaneQueries]) {
#pragma unroll
    for (int i = 0; i < kLaneQueries; ++i) {
      const int dim = step * kMmaDepth + 16 * slot(lane);
      spans[i] = query_span<T>(call.dtype, queries[i], dim, head_dim, false);
    }
  };
  Span<T> held[Shape::kQueriesHeld ? Shape::kSteps : 1][kLaneQueries];
  if constexpr (Shape::kQueriesHeld) {
#pragma unroll
    for (int s = 0; s < Shape::kSteps; ++s) load_queries(s, held[s]);
  }

  Tile out[Shape::kDimTiles] = {};
  float factors[kLaneQueries];
  Span<T> weights[kLaneQueries];

  // Scores and weights of a chunk; its keys stand in LDS in the order of the tiles' rows.
  const auto weigh = [&](int first, int chunk) {
    Tile scores[kSlots] = {};
#pragma unroll
    for (int s = 0; s < Shape::kSteps; ++s) {
      if constexpr (!Shape::kQueriesHeld) load_queries(s, held[0]);
#pragma unroll
      for (int t = 0; t < kSlots; ++t) {
        Span<T> k[kLaneQueries];
#pragma unroll
        for (int j = 0; j < kLaneQueries; ++j) {
          const int row = chunk * kChunkKeys + 16 * t + other_row(lane, j);
          k[j] = load_span(keys + row * Shape::kKeyStride + s * kMmaDepth + 16 * slot(lane));
        }
        multiply_add(scores[t], held[Shape::kQueriesHeld ? s : 0], k);
      }
    }
    const int from = first + chunk * kChunkKeys;
    const bool whole = from >= common.begin && from + kChunkKeys <= common.end;
    softmax_chunk(rule, scoring, from, whole, scores, softmax, factors, weights);
  };
  const auto add_values = [&](int chunk) {
#pragma unroll
    for (int u = 0; u < Shape::kDimTiles; ++u) {
#pragma unroll
      for (int e = 0; e < kAccElements; ++e) out[u].values[e] *= factors[element_query(e)];
      Span<T> v[kLaneQueries];
#pragma unroll
      for (int j = 0; j < kLaneQueries; ++j) {
        const int row = first_dim + 16 * u + other_row(lane, j);
        v[j] = load_span(values + row * Shape::kValueStride + chunk * kChunkKeys + 16 * slot(lane));
      }
      multiply_add(out[u], weights, v);
    }
  };
  const auto seen = [&](int first) { return first < any.end && first + kChunkKeys > any.begin; };

  const TileMover<T, kBucket, Format> mover{call, work, range};
  for (int first = range.begin; first < range.end; first += Shape::kKeys) {
    __syncthreads();
    mover.move_keys(first, keys);
    if constexpr (!Shape::kShared) mover.move_values(first, values);
    __syncthreads();
    if constexpr (Shape::kShared) {
      if (rows > 0 && seen(first)) weigh(first, 0);
      __syncthreads();
      mover.move_values(first, values);
      __syncthreads();
      if (rows > 0 && seen(first)) add_values(0);
    } else {
      for (int chunk = 0; chunk < Shape::kChunks; ++chunk) {
        if (rows == 0 || !seen(first + chunk * kChunkKeys)) continue;
        weigh(first, chunk);
        add_values(chunk);
      }
    }
  }

  softmax.finish();
#pragma unroll
  for (int u = 0; u < Shape::kDimTiles; ++u) {
#pragma unroll
    for (int e = 0; e < kAccElements; ++e) {
      const int i = element_query(e), row = lane_query(lane, i);
      const int dim = first_dim + 16 * u + element_other(lane, e);
      if (row >= rows || dim >= dims) continue;
      write_result(call, plan, partials, work, wave_row + row, dim, out[u].values[e],
                   make_float2(softmax.largest[i], softmax.sum[i]));
    }
  }
}

template <typename T, class Format>
void launch_tile(const AttentionCall& call, const AttentionPlan& plan, const Partials& partials,
                 Stream stream) {
  with_bucket(call, [&](auto bucket) {
    constexpr int kBucket = decltype(bucket)::value;
    attention_tile_kernel<T, kBucket, Format>
        <<<grid_of(call, plan), tile_waves(kBucket) * device_wave_size(), 0,
           static_cast<gpuStream_t>(stream)>>>(call, plan, partials);
  });
}

}  // namespace rocmforge::gpu
