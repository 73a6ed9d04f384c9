// Attention of few query rows: up to 16 of a key head at a time, so that every head of a group
// shares one read of the cache.
//
// A block steps over kStepKeys keys. For the scores its waves share out the keys, 16 each; for the
// weighted sum they share out the dims of the values. Keys are read straight into matrix units,
// values go through LDS transposed, as the weights do; little is kept in registers, so that many
// blocks are under way on a compute unit, and their loads with them. Where memory can be copied to
// LDS behind the computation, attention_decode_waves.h does better.
#pragma once

#include "hip/attention_decode_waves.h"
#include "hip/attention_matrix.h"

namespace rocmforge::gpu {

constexpr int kDecodeWaves = 4;
constexpr int kStepKeys = 16 * kDecodeWaves;

template <typename T, class Format, int kBucket>
struct DecodeShape {
  static constexpr int kThreads = kDecodeWaves * kWaveSize;
  static constexpr int kSteps = kBucket / kMmaDepth;
  static constexpr int kDepths = kStepKeys / kMmaDepth;
  static constexpr int kWaveTiles = kBucket / 16 / kDecodeWaves;  // of 16 dims
  static constexpr bool kLarge = kBucket > 128;
  static constexpr bool kQueriesHeld = !kLarge || kSlots > 1;
  // Rows of blocks are copied to LDS as they are: neighbouring lanes read neighbouring bytes of the
  // cache, and its odd addresses are met in LDS only.
  static constexpr bool kStaged = Format::kBlock > 1 && !kLarge;
  // Values are held in registers while scores are computed.
  static constexpr bool kAhead = !kStaged && !kLarge;
  static constexpr int kStride = kStepKeys + 8;  // of weights and, turned, of values
  static constexpr int kPairs = kStepKeys / 2 * (kBucket / 8) / kThreads;

  // LDS, in bytes: converted values, then the rows, keys before values.
  static constexpr int kRowBytes = kBucket / Format::kBlock * Format::kBytes;
  // What is copied at a time, and how many registers wait for it.
  static constexpr int kUnit = kRowBytes % 8 == 0 ? 8 : 4;
  static constexpr int kCopiesAtOnce = 5;
  static constexpr int kValueBytes = kBucket * kStride * static_cast<int>(sizeof(T));
  static constexpr int kBytes = kValueBytes + (kStaged ? 2 * kStepKeys * kRowBytes : 0);
};

// Starts to copy kStepKeys rows of `bytes` to LDS, in units of `Bytes` that the block's threads
// share out.
template <class Shape, int Bytes, class RowOf>
__device__ __forceinline__ void copy_rows(RowOf row_of, int bytes, uint8_t* to) {
  const int units = bytes / Bytes;
#pragma unroll Shape::kCopiesAtOnce
  for (int i = threadIdx.x; i < kStepKeys * units; i += Shape::kThreads) {
    const int key = i / units, at = i % units * Bytes;
    copy_to_lds<Bytes>(row_of(key) + at, to + key * Shape::kRowBytes + at);
  }
}

template <typename T, class Format, int kBucket>
struct DecodeRows {
  using Shape = DecodeShape<T, Format, kBucket>;
  const AttentionCall& call;
  const Work& work;
  int end;

  // Where a key is read from. Past the end the last one is.
  __device__ __forceinline__ const uint8_t* row(const CacheView& view, int key) const {
    return cache_row(call, view, work.batch, work.kv_head, key < end ? key : end - 1);
  }

  // Starts to copy the heads of `dims` values of the step from key `first` on to LDS.
  __device__ __forceinline__ void stage(const CacheView& view, int first, int dims,
                                        uint8_t* to) const {
    constexpr int kUnit = Shape::kUnit;
    const int bytes = dims / Format::kBlock * Format::kBytes;
    const auto row_of = [&](int key) { return row(view, first + key); };
    const auto steps = static_cast<int>(reinterpret_cast<uintptr_t>(view.data) | view.block_stride |
                                        view.position_stride | view.head_stride) |
                       bytes;
    if (steps % kUnit == 0) {
      copy_rows<Shape, kUnit>(row_of, bytes, to);
    } else if (kUnit > 4 && steps % 4 == 0) {
      copy_rows<Shape, 4>(row_of, bytes, to);
    } else {
      copy_rows<Shape, 2>(row_of, bytes, to);
    }
  }
};

template <typename T, class Format, int kBucket>
__global__ void __launch_bounds__(kDecodeWaves* kWaveSize, kBucket <= 128 ? 3 : 2)
    attention_decode_kernel(AttentionCall call, AttentionPlan plan, Partials partials) {
  follow_previous();
  using Shape = DecodeShape<T, Format, kBucket>;
  __shared__ __align__(16) uint8_t memory[Shape::kBytes];
  T* const values = reinterpret_cast<T*>(memory);  // [dim][key]
  uint8_t* const staged = memory + Shape::kValueBytes;
  __shared__ __align__(16) T weights[kDecodeRows * Shape::kStride];
  __shared__ float largest_of[kDecodeWaves][kDecodeRows], sum_of[kDecodeWaves][kDecodeRows];

  const DecodeShare share(call, plan, kStepKeys);
  if (share.is_idle()) return;
  const Work& work = share.work;
  const KeyRange& range = share.range;
  const int wave = threadIdx.x / kWaveSize, lane = threadIdx.x % kWaveSize;
  const int head_dim = static_cast<int>(call.head_dim), dims = static_cast<int>(call.value_dim);

  const ScoreRule rule(call);
  Scoring scoring[kLaneQueries];
  float largest[kLaneQueries], sum[kLaneQueries];
  const uint16_t* queries[kLaneQueries];
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    const int row = share.row_at(lane_query(lane, i));
    scoring[i] = scoring_of(call, plan, share.length, work.kv_head, row);
    const float2 start = first_stats(call, plan, work.kv_head, row, work.split);
    largest[i] = start.x;
    sum[i] = wave == 0 && lane_part(lane) == 0 ? start.y : 0.0f;
    const int passed_row = share.row_at(query_row(lane, i));
    queries[i] = static_cast<const uint16_t*>(call.q) +
                 query_offset(call, plan, work.batch, work.kv_head, passed_row);
  }
  const auto load_queries = [&](int step, Span<T>(&spans)[kLaneQueries]) {
#pragma unroll
    for (int i = 0; i < kLaneQueries; ++i) {
      const int dim = step * kMmaDepth + 16 * slot(lane);
      spans[i] = query_span<T>(call.dtype, queries[i], dim, head_dim, true);
    }
  };
  Span<T> held[Shape::kQueriesHeld ? Shape::kSteps : 1][kLaneQueries];
  if constexpr (Shape::kQueriesHeld) {
#pragma unroll
    for (int s = 0; s < Shape::kSteps; ++s) load_queries(s, held[s]);
  }

  const DecodeRows<T, Format, kBucket> cached{call, work, range.end};
  // Where key `key` of a step is read from.
  const auto key_row = [&](int step, int key) {
    if constexpr (Shape::kStaged) {
      return staged + key * Shape::kRowBytes;
    } else {
      return cached.row(call.k, range.begin + step * kStepKeys + key);
    }
  };
  const auto value_row = [&](int step, int key) {
    if constexpr (Shape::kStaged) {
      return staged + (kStepKeys + key) * Shape::kRowBytes;
    } else {
      return cached.row(call.v, range.begin + step * kStepKeys + key);
    }
  };

  // Pair i of a thread: eight values of two neighbouring keys.
  const auto place_pair = [&](int i, int* key, int* dim) {
    const int index = threadIdx.x + i * Shape::kThreads;
    *key = index / 2 % (kStepKeys / 2) * 2;
    *dim = (index % 2 + index / kStepKeys * 2) * 8;
  };
  const auto load_pair = [&](int step, int i, uint32_t (&even)[4], uint32_t (&odd)[4]) {
    int key, dim;
    place_pair(i, &key, &dim);
    dim = dim < dims ? dim : dims - 8;
    load_pairs<Format, T>(value_row(step, key), dim, even);
    load_pairs<Format, T>(value_row(step, key + 1), dim, odd);
  };
  const auto store_pair = [&](int i, const uint32_t (&even)[4], const uint32_t (&odd)[4]) {
    int key, dim;
    place_pair(i, &key, &dim);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      T* to = values + (dim + 2 * w) * Shape::kStride + key;
      *reinterpret_cast<uint32_t*>(to) = (even[w] & 0xffff) | odd[w] << 16;
      *reinterpret_cast<uint32_t*>(to + Shape::kStride) = even[w] >> 16 | (odd[w] & 0xffff0000u);
    }
  };

  Tile out[Shape::kWaveTiles] = {};
  for (int step = 0; range.begin + step * kStepKeys < range.end; ++step) {
    const int first = range.begin + step * kStepKeys;
    if constexpr (Shape::kStaged) {
      cached.stage(call.k, first, head_dim, staged);
      cached.stage(call.v, first, dims, staged + kStepKeys * Shape::kRowBytes);
      __syncthreads();
    }
    uint32_t even[Shape::kAhead ? Shape::kPairs : 1][4], odd[Shape::kAhead ? Shape::kPairs : 1][4];
    if constexpr (Shape::kAhead) {
#pragma unroll
      for (int i = 0; i < Shape::kPairs; ++i) load_pair(step, i, even[i], odd[i]);
    }

    Tile scores = {};
    const uint8_t* key_rows[kLaneQueries];
#pragma unroll
    for (int j = 0; j < kLaneQueries; ++j) {
      key_rows[j] = key_row(step, 16 * wave + other_row(lane, j));
    }
    const auto multiply_step = [&](int s, const Span<T>(&spans)[kLaneQueries]) {
      const int dim = s * kMmaDepth + 16 * slot(lane);
      // Past the head's end its last values are read again, against queries of zero.
      const int key_dim = dim + 16 <= head_dim ? dim : head_dim - 16;
      Span<T> k[kLaneQueries];
#pragma unroll
      for (int j = 0; j < kLaneQueries; ++j) {
        load_pairs<Format, T>(key_rows[j], key_dim, k[j].words);
      }
      multiply_add(scores, spans, k);
    };
    if constexpr (Shape::kQueriesHeld) {
#pragma unroll
      for (int s = 0; s < Shape::kSteps; ++s) multiply_step(s, held[s]);
    } else {
#pragma unroll 4
      for (int s = 0; s < Shape::kSteps; ++s) {
        load_queries(s, held[0]);
        multiply_step(s, held[0]);
      }
    }

    const bool whole = first >= share.common.begin && first + kStepKeys <= share.common.end;
#pragma unroll
    for (int e = 0; e < kAccElements; ++e) {
      const int key = first + 16 * wave + element_other(lane, e);
      scores.values[e] = rule.score(scores.values[e], scoring[element_query(e)], key, whole);
    }
#pragma unroll
    for (int i = 0; i < kLaneQueries; ++i) {
      float top = kNoScore;
#pragma unroll
      for (int e = 0; e < kAccElements; ++e) {
        if (element_query(e) == i) top = fmaxf(top, scores.values[e]);
      }
      top = over_parts(top, [](float a, float b) { return fmaxf(a, b); });
      if (lane_part(lane) == 0) largest_of[wave][lane_query(lane, i)] = top;
    }
    __syncthreads();  // the last step's weights and values have been read
    if constexpr (Shape::kAhead) {
#pragma unroll
      for (int i = 0; i < Shape::kPairs; ++i) store_pair(i, even[i], odd[i]);
    } else {
#pragma unroll 2
      for (int i = 0; i < Shape::kPairs; ++i) {
        load_pair(step, i, even[0], odd[0]);
        store_pair(i, even[0], odd[0]);
      }
    }
    float factors[kLaneQueries], against[kLaneQueries];
#pragma unroll
    for (int i = 0; i < kLaneQueries; ++i) {
      float top = largest[i];
#pragma unroll
      for (int w = 0; w < kDecodeWaves; ++w) top = fmaxf(top, largest_of[w][lane_query(lane, i)]);
      against[i] = top == kNoScore ? 0.0f : top;
      factors[i] = exp2_of(largest[i] - against[i]);
      largest[i] = top;
      sum[i] *= factors[i];
    }
#pragma unroll
    for (int e = 0; e < kAccElements; ++e) {
      const int i = element_query(e);
      const float weight = exp2_of(scores.values[e] - against[i]);
      sum[i] += weight;
      const int place = weight_place(16 * wave + element_other(lane, e));
      weights[lane_query(lane, i) * Shape::kStride + place] = from_float<T>(weight);
    }
    __syncthreads();

#pragma unroll
    for (int u = 0; u < Shape::kWaveTiles; ++u) {
#pragma unroll
      for (int e = 0; e < kAccElements; ++e) out[u].values[e] *= factors[element_query(e)];
    }
#pragma unroll
    for (int d = 0; d < Shape::kDepths; ++d) {
      const int key = d * kMmaDepth + 16 * slot(lane);
      Span<T> w[kLaneQueries];
#pragma unroll
      for (int i = 0; i < kLaneQueries; ++i) {
        w[i] = load_span(weights + query_row(lane, i) * Shape::kStride + key);
      }
#pragma unroll
      for (int u = 0; u < Shape::kWaveTiles; ++u) {
        Span<T> v[kLaneQueries];
        const int dim = 16 * (wave * Shape::kWaveTiles + u);
#pragma unroll
        for (int j = 0; j < kLaneQueries; ++j) {
          v[j] = load_span(values + (dim + other_row(lane, j)) * Shape::kStride + key);
        }
        multiply_add(out[u], w, v);
      }
    }
  }

#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    sum[i] = over_parts(sum[i], [](float a, float b) { return a + b; });
    if (lane_part(lane) == 0) sum_of[wave][lane_query(lane, i)] = sum[i];
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    const int row = lane_query(lane, i);
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < kDecodeWaves; ++w) total += sum_of[w][row];
    if (row >= share.rows) continue;
    const float2 stats = make_float2(largest[i], total);
    ResultRow result(call, plan, partials, work, share.first_row + row, stats,
                     wave == 0 && lane_part(lane) == 0);
#pragma unroll
    for (int u = 0; u < Shape::kWaveTiles; ++u) {
      result.write(out[u], i, lane, 16 * (wave * Shape::kWaveTiles + u), dims);
    }
  }
}

// The launcher of a format; float16 unless the format is bfloat16.
template <typename T, class Format>
void launch_decode(const AttentionCall& call, const AttentionPlan& plan, const Partials& partials,
                   Stream stream) {
  const auto launch = [&](auto bucket) {
    constexpr int kBucket = decltype(bucket)::value;
    const auto start = [&](auto kernel, int threads, int lds) {
      allow_lds(kernel, lds);
      launch_early(kernel, grid_of(call, plan), threads, lds, static_cast<gpuStream_t>(stream),
                   call, plan, partials);
    };
    if constexpr (kLoadsTransposed) {
      const auto start_tiles = [&](auto tiles) {
        constexpr int kTiles = decltype(tiles)::value;
        using Shape = WaveShape<Format, kBucket, kTiles>;
        start(attention_decode_waves_kernel<T, Format, kBucket, kTiles>, Shape::kThreads,
              Shape::kBytes);
      };
      if constexpr (kBucket <= kMostDimsOfManyRows) {
        if (plan.tile_rows > kFewDecodeRows) return start_tiles(std::integral_constant<int, 2>{});
      }
      start_tiles(std::integral_constant<int, 1>{});
    } else {
      start(attention_decode_kernel<T, Format, kBucket>, kDecodeWaves * device_wave_size(), 0);
    }
  };
  with_bucket(call, launch);
}

}  // namespace rocmforge::gpu
