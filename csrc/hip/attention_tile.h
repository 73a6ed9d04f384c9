// Attention of many query rows: a block of waves, 16 rows each, walks over the keys that any of its
// rows sees. Keys and values are float16 or bfloat16, in the cache or unpacked from it
// (attention_unpack.h), and come through LDS: values are read while the scores are computed, the
// next keys while the values are summed.
#pragma once

#include "hip/attention_matrix.h"

namespace rocmforge::gpu {

// What follows from the size of a head.
template <typename T, int kBucket>
struct TileShape {
  static constexpr int kWaves = tile_waves(kBucket), kThreads = kWaves * kWaveSize;
  static constexpr int kDimParts = tile_dim_parts(kBucket), kDimTiles = kBucket / 16 / kDimParts;
  static constexpr int kSteps = kBucket / kMmaDepth;
  static constexpr bool kLarge = kBucket > 128;
  static constexpr int kKeys = kChunkKeys < 64 ? 32 : 64;
  static constexpr int kChunks = kKeys / kChunkKeys, kKeyTiles = kKeys / 16;
  // Large heads leave no room for keys and values at once.
  static constexpr bool kShared = kLarge && kChunks == 1;
  static constexpr bool kQueriesHeld = kBucket <= 64 * kSlots;
  // Rows are 16 bytes longer than their values: reads of neighbouring rows meet other banks.
  static constexpr int kKeyStride = kBucket + 8;
  static constexpr int kValueStride = kLoadsTransposed ? kKeyStride : kKeys + 8;
  static constexpr int kKeySize = kKeys * kKeyStride;
  static constexpr int kValueSize = (kLoadsTransposed ? kKeys : kBucket) * kValueStride;
  static constexpr int kSize =
      kShared ? (kKeySize > kValueSize ? kKeySize : kValueSize) : kKeySize + kValueSize;
};

// A thread's share of the tile of keys or values that is under way to LDS, in pieces of eight
// neighbouring values of a key. kTurned: to [dim][key], two keys at a time; else to [key][dim],
// keys in the order of the tiles' rows.
template <typename T, int kBucket, bool kTurned>
struct TileMover {
  using Shape = TileShape<T, kBucket>;
  // LDS gets what the cache has, without registers.
  static constexpr bool kCopied = kLoadsTransposed && !kTurned && !Shape::kShared;
  static constexpr int kWidth = 8, kRow = kBucket / kWidth;
  static constexpr int kShares =
      (Shape::kKeys * kRow / (kTurned ? 2 : 1) + Shape::kThreads - 1) / Shape::kThreads;
  static constexpr int kPieces = kShares * (kTurned ? 2 : 1);
  // From a piece's key to the next one's and, turned, back; 0: not always the same.
  static constexpr int kStep = kTurned                       ? 1
                               : Shape::kThreads % kRow != 0 ? 0
                                                             : Shape::kThreads / kRow;

  RowCursor rows;
  int dims;
  uint4 pieces[kCopied ? 1 : kPieces];

  __device__ __forceinline__ TileMover(const AttentionCall& call, const CacheView& view,
                                       const Work& work, int dims, int end)
      : rows(call, view, work, end), dims(dims) {}

  // Where piece i of a thread stands. Turned, neighbouring threads read neighbouring pieces and
  // write neighbouring keys.
  static __device__ __forceinline__ void place(int i, int* key, int* dim) {
    constexpr unsigned kKeys = Shape::kKeys, kThreads = Shape::kThreads;
    const unsigned thread = threadIdx.x;
    if constexpr (kTurned) {
      static_assert(kThreads % kKeys == 0);
      *key = static_cast<int>(thread / 2 % (kKeys / 2) * 2) + i % 2;
      *dim = static_cast<int>(thread % 2 + thread / kKeys * 2) * kWidth +
             i / 2 * static_cast<int>(kThreads / kKeys * 2 * kWidth);
    } else if constexpr (kStep != 0) {
      *key = static_cast<int>(thread / kRow) + i * kStep;
      *dim = static_cast<int>(thread % kRow) * kWidth;
    } else {
      const unsigned index = thread + i * kThreads;
      *key = static_cast<int>(index / kRow), *dim = static_cast<int>(index % kRow) * kWidth;
    }
  }
  // The last share may be larger than what is left.
  static __device__ __forceinline__ bool inside(int key, int dim) {
    return key < Shape::kKeys && dim < kBucket;
  }

  // Zeros where a head has ended; later copies leave them alone.
  __device__ __forceinline__ void clear(T* to) const {
    if constexpr (kCopied) {
#pragma unroll 1
      for (int i = 0; i < kPieces; ++i) {
        int key, dim;
        place(i, &key, &dim);
        if (dim < dims || !inside(key, dim)) continue;
        *reinterpret_cast<uint4*>(to + key * Shape::kKeyStride + dim) = make_uint4(0, 0, 0, 0);
      }
    }
  }

  // Starts to read the tile from key `first` on.
  __device__ __forceinline__ void fetch(int first, T* to) {
    int key, dim;
    place(0, &key, &dim);
    rows.start(first + key);
    if (kStep != 0 && rows.neighbours(first, Shape::kKeys)) {
      const uint8_t* row = rows.at(first + key);
      const int64_t step = kStep * rows.view.position_stride;
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        place(i, &key, &dim);
        if (dim < dims && inside(key, dim)) fetch_piece(i, row, key, dim, to);
        row += kTurned && i % 2 != 0 ? -step : step;
      }
    } else if constexpr (kCopied) {
#pragma unroll 1
      for (int i = 0; i < kPieces; ++i) look_up_piece(i, first, to);
    } else {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) look_up_piece(i, first, to);
    }
  }

  // The tile in LDS; a barrier has to follow.
  __device__ __forceinline__ void land(T* to) {
    if constexpr (kCopied) {
      LdsCopy{}.land(nullptr);
    } else if constexpr (kTurned) {
      store_turned(to);
    } else {
      store(to);
    }
  }

 private:
  __device__ __forceinline__ void look_up_piece(int i, int first, T* to) {
    int key, dim;
    place(i, &key, &dim);
    if (dim < dims && inside(key, dim)) fetch_piece(i, rows.at(first + key), key, dim, to);
  }

  __device__ __forceinline__ void fetch_piece(int i, const uint8_t* row, int key, int dim, T* to) {
    const T* from = reinterpret_cast<const T*>(row) + dim;
    if constexpr (kCopied) {
      LdsCopy{}.fetch(from, to + key * Shape::kKeyStride + dim);
    } else {
      pieces[i] = *reinterpret_cast<const uint4*>(from);
    }
  }

  __device__ __forceinline__ void store_turned(T* to) const {
#pragma unroll
    for (int i = 0; i < kPieces; i += 2) {
      int key, dim;
      place(i, &key, &dim);
      if (dim >= dims) continue;
      const uint32_t even[] = {pieces[i].x, pieces[i].y, pieces[i].z, pieces[i].w};
      const uint32_t odd[] = {pieces[i + 1].x, pieces[i + 1].y, pieces[i + 1].z, pieces[i + 1].w};
#pragma unroll
      for (int w = 0; w < kWidth / 2; ++w) {
        T* at = to + (dim + 2 * w) * Shape::kValueStride + key;
        *reinterpret_cast<uint32_t*>(at) = (even[w] & 0xffff) | odd[w] << 16;
        *reinterpret_cast<uint32_t*>(at + Shape::kValueStride) =
            even[w] >> 16 | (odd[w] & 0xffff0000u);
      }
    }
  }

  __device__ __forceinline__ void store(T* to) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      int key, dim;
      place(i, &key, &dim);
      if (!inside(key, dim)) continue;
      const int tile_row = key / kChunkKeys * kChunkKeys + key_row(key % kChunkKeys);
      *reinterpret_cast<uint4*>(to + tile_row * Shape::kKeyStride + dim) =
          dim < dims ? pieces[i] : make_uint4(0, 0, 0, 0);
    }
  }
};

// Blocks that should fit into a compute unit.
constexpr int tile_blocks(int bucket) { return bucket > 128 ? 1 : 2; }

template <typename T, int kBucket>
__global__ void __launch_bounds__(tile_waves(kBucket) * kWaveSize, tile_blocks(kBucket))
    attention_tile_kernel(AttentionCall call, AttentionPlan plan, Partials partials) {
  follow_previous();
  using Shape = TileShape<T, kBucket>;
  __shared__ __align__(16) T memory[Shape::kSize];
  T* const keys = memory;
  T* const values = memory + (Shape::kShared ? 0 : Shape::kKeySize);

  Work work = work_of(call, plan, blockIdx.x);
  work.tile = plan.tiles - 1 - work.tile;  // those that see the most keys start first
  const int wave = threadIdx.x / kWaveSize, lane = threadIdx.x % kWaveSize;
  const int head_dim = static_cast<int>(call.head_dim), dims = static_cast<int>(call.value_dim);
  const int length = sequence_length(call, work.batch);
  const int first_row = work.tile * kTileRows;
  const int last_row = (plan.rows - first_row > kTileRows ? first_row + kTileRows : plan.rows) - 1;
  KeyRange range = tile_keys(call, length, first_row / plan.group, last_row / plan.group);
  work.splits = splits_of(plan, range);
  if (work.split >= work.splits) return;
  range.begin -= range.begin % Shape::kKeys;
  range = split_keys(range, work.split, work.splits, Shape::kKeys);

  // The wave's rows: those that there are not are the last one's, and never written.
  const int wave_row = first_row + wave / Shape::kDimParts * 16;
  const int first_dim = wave % Shape::kDimParts * Shape::kDimTiles * 16;
  const int rows = wave_row > last_row        ? 0
                   : last_row - wave_row > 15 ? 16
                                              : last_row - wave_row + 1;
  const int wave_first = (rows > 0 ? wave_row : last_row) / plan.group;
  const int wave_last = (rows > 0 ? wave_row + rows - 1 : last_row) / plan.group;
  const KeyRange any = tile_keys(call, length, wave_first, wave_last);
  const KeyRange common = common_keys(call, length, wave_first, wave_last);

  TileMover<T, kBucket, false> key_mover(call, call.k, work, head_dim, range.end);
  TileMover<T, kBucket, !kLoadsTransposed> value_mover(call, call.v, work, dims, range.end);
  key_mover.clear(keys);
  if (range.begin < range.end) key_mover.fetch(range.begin, keys);

  const ScoreRule rule(call);
  Softmax<TileScores> softmax;
  const uint16_t* queries[kLaneQueries];
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    const int own = wave_row + lane_query(lane, i), passed = wave_row + query_row(lane, i);
    const int row = own < last_row ? own : last_row;
    softmax.start(i, first_stats(call, plan, work.kv_head, row, work.split));
    queries[i] =
        static_cast<const uint16_t*>(call.q) +
        query_offset(call, plan, work.batch, work.kv_head, passed < last_row ? passed : last_row);
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

  const auto scoring = [&](int i) {
    const int own = wave_row + lane_query(lane, i);
    return scoring_of(call, plan, length, work.kv_head, own < last_row ? own : last_row);
  };

  Tile out[Shape::kDimTiles] = {};
  Tile scores[Shape::kKeyTiles];  // keys stand in LDS in the order of the tiles' rows

  for (int first = range.begin; first < range.end; first += Shape::kKeys) {
    const bool seen = rows > 0 && first < any.end && first + Shape::kKeys > any.begin;
    if constexpr (Shape::kShared) __syncthreads();  // the last values have been used
    key_mover.land(keys);
    __syncthreads();

    value_mover.fetch(first, values);
    if (seen) {
#pragma unroll
      for (int t = 0; t < Shape::kKeyTiles; ++t) scores[t] = {};
#pragma unroll
      for (int s = 0; s < Shape::kSteps; ++s) {
        if constexpr (!Shape::kQueriesHeld) load_queries(s, held[0]);
#pragma unroll
        for (int t = 0; t < Shape::kKeyTiles; ++t) {
          Span<T> k[kLaneQueries];
#pragma unroll
          for (int j = 0; j < kLaneQueries; ++j) {
            const T* row = keys + (16 * t + other_row(lane, j)) * Shape::kKeyStride;
            k[j] = load_span(row + s * kMmaDepth + 16 * slot(lane));
          }
          multiply_add(scores[t], held[Shape::kQueriesHeld ? s : 0], k);
        }
        keep_order();
      }
    }
    if constexpr (Shape::kShared) __syncthreads();  // the keys have been used
    value_mover.land(values);
    __syncthreads();

    if (first + Shape::kKeys < range.end) key_mover.fetch(first + Shape::kKeys, keys);
    if (!seen) continue;
    const bool whole = first >= common.begin && first + Shape::kKeys <= common.end;
    float factors[kLaneQueries];
    softmax_tile(rule, scoring, first, whole, scores, softmax, factors);
    if (Shape::kLarge || rises(factors)) {
#pragma unroll
      for (int u = 0; u < Shape::kDimTiles; ++u) {
#pragma unroll
        for (int e = 0; e < kAccElements; ++e) out[u].values[e] *= factors[element_query(e)];
      }
    }
#pragma unroll
    for (int chunk = 0; chunk < Shape::kChunks; ++chunk) {
      const T* const from =
          values + chunk * kChunkKeys * (kLoadsTransposed ? Shape::kValueStride : 1);
      Span<T> weights[kLaneQueries];
      weight_spans(scores + chunk * kSlots, weights);
#pragma unroll
      for (int u = 0; u < Shape::kDimTiles; ++u) {
        Span<T> v[kLaneQueries];
        const int dim = first_dim + 16 * u;
        if constexpr (kLoadsTransposed) {
          load_transposed(from + dim, Shape::kValueStride, v);
        } else {
#pragma unroll
          for (int j = 0; j < kLaneQueries; ++j) {
            const T* row = from + (dim + other_row(lane, j)) * Shape::kValueStride;
            v[j] = load_span(row + 16 * slot(lane));
          }
        }
        multiply_add(out[u], weights, v);
        if (u % 2 == 1) keep_order();
      }
    }
  }

  softmax.finish();
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    const int row = lane_query(lane, i);
    if (row >= rows) continue;
    const float2 stats = make_float2(softmax.base[i], softmax.sum[i]);
    ResultRow result(call, plan, partials, work, wave_row + row, stats,
                     first_dim == 0 && lane_part(lane) == 0);
#pragma unroll
    for (int u = 0; u < Shape::kDimTiles; ++u) {
      result.write(out[u], i, lane, first_dim + 16 * u, dims);
    }
  }
}

template <typename T>
void launch_tile(const AttentionCall& call, const AttentionPlan& plan, const Partials& partials,
                 Stream stream) {
  with_bucket(call, [&](auto bucket) {
    constexpr int kBucket = decltype(bucket)::value;
    launch_early(attention_tile_kernel<T, kBucket>, grid_of(call, plan),
                 tile_waves(kBucket) * device_wave_size(), 0, static_cast<gpuStream_t>(stream),
                 call, plan, partials);
  });
}

}  // namespace rocmforge::gpu
