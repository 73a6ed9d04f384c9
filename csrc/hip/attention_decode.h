// Attention of few query rows: up to 16 of a key head at a time, so that every head of a group
// shares one read of the cache.
//
// A block steps over kStepKeys keys. For the scores its waves share out the keys, 16 each; for the
// weighted sum they share out the dims of the values. Where memory can be copied to LDS behind the
// computation, rows come that way, as the cache has them, some steps ahead; values of 16 bits are
// used as they are, others converted in LDS once. Elsewhere keys are read straight into matrix
// units and values go through LDS transposed, as the weights do; little is kept in registers, so
// that many blocks are under way on a compute unit, and their loads with them.
#pragma once

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
  // Rows are copied to LDS as they are, ahead of their use.
  static constexpr bool kCopied = kLoadsTransposed;
  // Rows of blocks are, too: neighbouring lanes read neighbouring bytes of the cache, and its odd
  // addresses are met in LDS only.
  static constexpr bool kStaged = kCopied || (Format::kBlock > 1 && !kLarge);
  // The values that matrix units read are those bytes.
  static constexpr bool kDirect = kCopied && Format::kBlock == 1 && Format::kBytes == 2;
  // Values are held in registers while scores are computed.
  static constexpr bool kAhead = !kStaged && !kLarge;
  static constexpr int kStride = kStepKeys + 8;  // of weights and, turned, of values
  static constexpr int kPairs = kStepKeys / 2 * (kBucket / 8) / kThreads;

  // LDS, in bytes: converted values, then the stages of rows, keys before values.
  static constexpr int kHeadBytes = kBucket / Format::kBlock * Format::kBytes;
  static constexpr int kRowBytes = kHeadBytes + (kCopied && Format::kBlock == 1 ? 16 : 0);
  // What is copied at a time, and how many registers wait for it.
  static constexpr int kUnit = Format::kBlock == 1 ? 16 : kRowBytes % 8 == 0 ? 8 : 4;
  static constexpr int kCopiesAtOnce = kCopied ? 1 : 5;
  static constexpr int kStageBytes = kStaged ? 2 * kStepKeys * kRowBytes : 0;
  static constexpr int kValueStride = kCopied ? kBucket + 8 : kStride;  // elements
  static constexpr int kValueBytes =
      kDirect ? 0 : (kCopied ? kStepKeys : kBucket) * kValueStride * static_cast<int>(sizeof(T));
  // As many as let three blocks fit into NVIDIA's 227 KiB.
  static constexpr int kFitting = kCopied ? ((72 << 10) - kValueBytes) / kStageBytes : 1;
  static constexpr int kStages = !kCopied ? 1 : kFitting < 2 ? 2 : kFitting > 4 ? 4 : kFitting;
  static constexpr int kBytes = kValueBytes + kStages * kStageBytes;
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

// The same for rows of the largest size, `stride` apart.
template <class Shape, int Bytes>
__device__ __forceinline__ void copy_whole_rows(const uint8_t* from, int64_t stride, uint8_t* to) {
  constexpr unsigned kUnits = Shape::kHeadBytes / Bytes, kAll = kStepKeys * kUnits;
#pragma unroll
  for (unsigned n = 0; n < (kAll + Shape::kThreads - 1) / Shape::kThreads; ++n) {
    const unsigned i = threadIdx.x + n * Shape::kThreads;
    const unsigned key = i / kUnits, at = i % kUnits * Bytes;
    if (kAll % Shape::kThreads != 0 && i >= kAll) break;
    copy_to_lds<Bytes>(from + key * stride + at, to + key * Shape::kRowBytes + at);
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
    // Plain rows are as aligned as 16-byte loads of them need.
    const auto steps =
        Format::kBlock == 1
            ? 0
            : static_cast<int>(reinterpret_cast<uintptr_t>(view.data) | view.block_stride |
                               view.position_stride | view.head_stride) |
                  bytes;
    if (Shape::kCopied && steps % kUnit == 0 && dims == kBucket && call.block_table == nullptr &&
        first + kStepKeys <= end) {
      copy_whole_rows<Shape, kUnit>(row(view, first), view.position_stride, to);
    } else if (steps % kUnit == 0) {
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
  uint8_t* memory;
  if constexpr (Shape::kCopied) {
    extern __shared__ __align__(16) uint8_t dynamic[];
    memory = dynamic;
  } else {
    __shared__ __align__(16) uint8_t fixed[Shape::kBytes];
    memory = fixed;
  }
  T* const values = reinterpret_cast<T*>(memory);  // [dim][key]; kCopied: [key][dim]
  uint8_t* const stages = memory + Shape::kValueBytes;
  __shared__ __align__(16) T weights[kDecodeRows * Shape::kStride];
  __shared__ float largest_of[kDecodeWaves][kDecodeRows], sum_of[kDecodeWaves][kDecodeRows];

  const Work work = work_of(call, plan, blockIdx.x);
  const int wave = threadIdx.x / kWaveSize, lane = threadIdx.x % kWaveSize;
  const int first_row = work.tile * kDecodeRows;
  const int rows = plan.rows - first_row < kDecodeRows ? plan.rows - first_row : kDecodeRows;
  const int head_dim = static_cast<int>(call.head_dim), dims = static_cast<int>(call.value_dim);
  const int length = sequence_length(call, work.batch);
  const int first_query = first_row / plan.group;
  const int last_query = (first_row + rows - 1) / plan.group;
  KeyRange range = tile_keys(call, length, first_query, last_query);
  range.begin -= range.begin % kStepKeys;
  range = split_keys(range, work.split, plan.splits, kStepKeys);
  const KeyRange common = common_keys(call, length, first_query, last_query);

  const ScoreRule rule(call);
  Scoring scoring[kLaneQueries];
  float largest[kLaneQueries], sum[kLaneQueries];
  const uint16_t* queries[kLaneQueries];
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    // Rows that there are not are those of the last one, and never written.
    const int own = lane_query(lane, i), passed = query_row(lane, i);
    const int row = first_row + (own < rows ? own : rows - 1);
    scoring[i] = scoring_of(call, plan, length, work.kv_head, row);
    const float2 start = first_stats(call, plan, work.kv_head, row, work.split);
    largest[i] = start.x;
    sum[i] = wave == 0 && lane_part(lane) == 0 ? start.y : 0.0f;
    const int passed_row = first_row + (passed < rows ? passed : rows - 1);
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
  const auto stage_of = [&](int step) {
    return stages + step % Shape::kStages * Shape::kStageBytes;
  };
  const auto stage = [&](int step) {
    const int first = range.begin + step * kStepKeys;
    if (first < range.end) {
      cached.stage(call.k, first, head_dim, stage_of(step));
      cached.stage(call.v, first, dims, stage_of(step) + kStepKeys * Shape::kRowBytes);
    }
    close_copies();
  };
  // Where key `key` of a step is read from.
  const auto key_row = [&](int step, int key) {
    if constexpr (Shape::kStaged) {
      return stage_of(step) + key * Shape::kRowBytes;
    } else {
      return cached.row(call.k, range.begin + step * kStepKeys + key);
    }
  };
  const auto value_row = [&](int step, int key) {
    if constexpr (Shape::kStaged) {
      return stage_of(step) + (kStepKeys + key) * Shape::kRowBytes;
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

  // The step's values as the matrix units take them, without turning them.
  const auto convert_values = [&](int step) {
    constexpr int kPieces = kBucket / 16;
#pragma unroll
    for (int i = 0; i < kStepKeys * kPieces / Shape::kThreads; ++i) {
      const unsigned index = threadIdx.x + i * Shape::kThreads;
      const int key = static_cast<int>(index / kPieces);
      const int dim = static_cast<int>(index % kPieces) * 16;
      if (dim >= dims) continue;
      uint32_t pairs[8];
      load_pairs<Format, T>(value_row(step, key), dim, pairs);
      auto* to = reinterpret_cast<uint4*>(values + key * Shape::kValueStride + dim);
      to[0] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
      to[1] = make_uint4(pairs[4], pairs[5], pairs[6], pairs[7]);
    }
  };

  Tile out[Shape::kWaveTiles] = {};
  if constexpr (Shape::kCopied) {
#pragma unroll
    for (int step = 0; step < Shape::kStages - 1; ++step) stage(step);
  }
  for (int step = 0; range.begin + step * kStepKeys < range.end; ++step) {
    const int first = range.begin + step * kStepKeys;
    if constexpr (Shape::kCopied) {
      await_copies<Shape::kStages - 2>();
      __syncthreads();  // the step before has been computed
      stage(step + Shape::kStages - 1);
    } else if constexpr (Shape::kStaged) {
      stage(step);
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

    const bool whole = first >= common.begin && first + kStepKeys <= common.end;
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
    if constexpr (Shape::kDirect) {
      // nothing to do
    } else if constexpr (Shape::kCopied) {
      convert_values(step);
    } else if constexpr (Shape::kAhead) {
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
        if constexpr (Shape::kCopied) {
          constexpr int kStride = Shape::kDirect ? Shape::kRowBytes / 2 : Shape::kValueStride;
          const T* from = values;
          if constexpr (Shape::kDirect) from = reinterpret_cast<const T*>(value_row(step, 0));
          load_transposed(from + d * kMmaDepth * kStride + dim, kStride, v);
        } else {
#pragma unroll
          for (int j = 0; j < kLaneQueries; ++j) {
            v[j] = load_span(values + (dim + other_row(lane, j)) * Shape::kStride + key);
          }
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
    if (row >= rows) continue;
    const float2 stats = make_float2(largest[i], total);
    ResultRow result(call, plan, partials, work, first_row + row, stats,
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
    using Shape = DecodeShape<T, Format, kBucket>;
    constexpr int kDynamicBytes = Shape::kCopied ? Shape::kBytes : 0;
    const auto kernel = attention_decode_kernel<T, Format, kBucket>;
    allow_lds(kernel, kDynamicBytes);
    launch_early(kernel, grid_of(call, plan), kDecodeWaves * device_wave_size(), kDynamicBytes,
                 static_cast<gpuStream_t>(stream), call, plan, partials);
  };
  with_bucket(call, launch);
}

}  // namespace rocmforge::gpu
