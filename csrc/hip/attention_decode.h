// Attention of few query rows: up to 16 of a key head at a time, so that every head of a group
// shares one read of the cache. A wave takes a chunk of keys straight from memory to matrix units;
// the waves of a block take every kDecodeWaves-th chunk and are merged at the end, in order.
#pragma once

#include "hip/attention_matrix.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {

constexpr int kDecodeWaves = 4;

// Eight neighbouring values of a value head are one load of a lane; lanes beside each other cover
// kPassDims of them, kPassTiles tiles whose other rows are dims 8 apart.
constexpr int kLaneDims = 8, kDimGroups = 16 / kLaneQueries;
constexpr int kPassDims = kLaneDims * kDimGroups, kPassTiles = kLaneDims / kLaneQueries;

__device__ __forceinline__ int pass_dim(int pass, int tile, int other) {
  return pass * kPassDims + other % kDimGroups * kLaneDims + tile * kLaneQueries +
         other / kDimGroups;
}

// A lane's 16 keys of a pass, transposed: eight spans over keys, one a dim.
template <typename T, class Format, class RowOf>
__device__ __forceinline__ void value_spans(RowOf row_of, int dim, Span<T> (&spans)[kLaneDims]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) {
    uint32_t even[kLaneDims / 2], odd[kLaneDims / 2];
    Format::template load_pairs<T, kLaneDims>(row_of(2 * i), dim, even);
    Format::template load_pairs<T, kLaneDims>(row_of(2 * i + 1), dim, odd);
#pragma unroll
    for (int w = 0; w < kLaneDims / 2; ++w) {
      spans[2 * w].words[i] = (even[w] & 0xffff) | odd[w] << 16;
      spans[2 * w + 1].words[i] = even[w] >> 16 | (odd[w] & 0xffff0000u);
    }
  }
}

template <typename T, class Format, int kBucket>
__global__ void __launch_bounds__(kDecodeWaves* kWaveSize)
    attention_decode_kernel(AttentionCall call, AttentionPlan plan, Partials partials) {
  constexpr int kSteps = kBucket / kMmaDepth;
  constexpr int kPasses = (kBucket + kPassDims - 1) / kPassDims;
  constexpr int kStride = kPasses * kPassDims + 4;
  __shared__ float merged[kDecodeRows * kStride];
  __shared__ float2 wave_stats[kDecodeWaves][kDecodeRows];

  const Work work = work_of(call, plan, blockIdx.x);
  const int wave = threadIdx.x / kWaveSize, lane = threadIdx.x % kWaveSize;
  const int64_t first_row = int64_t{work.tile} * kDecodeRows;
  const int rows =
      static_cast<int>(plan.rows - first_row < kDecodeRows ? plan.rows - first_row : kDecodeRows);
  const int head_dim = static_cast<int>(call.head_dim), dims = static_cast<int>(call.value_dim);
  const int64_t group = call.heads / call.kv_heads;
  const int length = sequence_length(call, work.batch);
  const int64_t first_query = first_row / group, last_query = (first_row + rows - 1) / group;
  KeyRange range = tile_keys(call, length, first_query, last_query);
  range.begin -= range.begin % kChunkKeys;
  range = split_keys(range, work.split, plan.splits, kChunkKeys);
  const KeyRange common = common_keys(call, length, first_query, last_query);

  const ScoreRule rule(call);
  Scoring scoring[kLaneQueries];
  Softmax softmax;
  const uint16_t* queries[kLaneQueries];
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    // Rows that there are not are those of the last one, and never written.
    const int own = lane_query(lane, i), passed = query_row(lane, i);
    const int64_t row = first_row + (own < rows ? own : rows - 1);
    scoring[i] = scoring_of(call, length, work.kv_head, row);
    softmax.start(i, first_stats(call, work.kv_head, row, wave == 0 ? work.split : 1));
    const int64_t passed_row = first_row + (passed < rows ? passed : rows - 1);
    queries[i] = static_cast<const uint16_t*>(call.q) +
                 query_offset(call, work.batch, work.kv_head, passed_row);
  }
  const auto key_row_of = [&](const CacheView& view, int key) {
    return cache_row(call, view, work.batch, work.kv_head, key < range.end ? key : range.end - 1);
  };

  Tile out[kPasses][kPassTiles] = {};
  for (int first = range.begin + wave * kChunkKeys; first < range.end;
       first += kDecodeWaves * kChunkKeys) {
    Tile scores[kSlots] = {};
#pragma unroll
    for (int t = 0; t < kSlots; ++t) {
      const uint8_t* key_rows[kLaneQueries];
#pragma unroll
      for (int j = 0; j < kLaneQueries; ++j) {
        key_rows[j] = key_row_of(call.k, first + row_key(lane, t, j));
      }
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const int dim = s * kMmaDepth + 16 * slot(lane);
        // Past the head's end its last values are read again, against queries of zero.
        const int key_dim = dim + 16 <= head_dim ? dim : head_dim - 16;
        Span<T> q[kLaneQueries], k[kLaneQueries];
#pragma unroll
        for (int j = 0; j < kLaneQueries; ++j) {
          Format::template load_pairs<T, 16>(key_rows[j], key_dim, k[j].words);
          q[j] = query_span<T>(call.dtype, queries[j], dim, head_dim, true);
        }
        multiply_add(scores[t], q, k);
      }
    }
    float factors[kLaneQueries];
    Span<T> weights[kLaneQueries];
    const bool whole = first >= common.begin && first + kChunkKeys <= common.end;
    softmax_chunk(rule, scoring, first, whole, scores, softmax, factors, weights);
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      const int dim = pass * kPassDims + other_row(lane, 0) % kDimGroups * kLaneDims;
      Span<T> spans[kLaneDims];
      value_spans<T, Format>([&](int i) { return key_row_of(call.v, first + 16 * slot(lane) + i); },
                             dim + kLaneDims <= dims ? dim : dims - kLaneDims, spans);
#pragma unroll
      for (int u = 0; u < kPassTiles; ++u) {
        Tile& tile = out[pass][u];
#pragma unroll
        for (int e = 0; e < kAccElements; ++e) tile.values[e] *= factors[element_query(e)];
        Span<T> v[kLaneQueries];
#pragma unroll
        for (int j = 0; j < kLaneQueries; ++j) v[j] = spans[u * kLaneQueries + j];
        multiply_add(tile, weights, v);
      }
    }
  }

  softmax.finish();
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    if (lane_part(lane) == 0) {
      wave_stats[wave][lane_query(lane, i)] = make_float2(softmax.largest[i], softmax.sum[i]);
    }
  }
  __syncthreads();
  const auto block_largest = [&](int row) {
    float largest = kNoScore;
#pragma unroll
    for (int w = 0; w < kDecodeWaves; ++w) largest = fmaxf(largest, wave_stats[w][row].x);
    return largest;
  };
  float factors[kLaneQueries];
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    factors[i] = rescale(softmax.largest[i], block_largest(lane_query(lane, i)));
  }
  for (int turn = 0; turn < kDecodeWaves; ++turn) {
    if (wave == turn) {
#pragma unroll
      for (int pass = 0; pass < kPasses; ++pass) {
#pragma unroll
        for (int u = 0; u < kPassTiles; ++u) {
#pragma unroll
          for (int e = 0; e < kAccElements; ++e) {
            const int i = element_query(e);
            float* to =
                merged + lane_query(lane, i) * kStride + pass_dim(pass, u, element_other(lane, e));
            const float value = out[pass][u].values[e] * factors[i];
            *to = turn == 0 ? value : *to + value;
          }
        }
      }
    }
    __syncthreads();
  }
  for (int i = threadIdx.x; i < rows * dims; i += kDecodeWaves * kWaveSize) {
    const int row = i / dims, dim = i % dims;
    const float largest = block_largest(row);
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < kDecodeWaves; ++w) {
      sum += wave_stats[w][row].y * rescale(wave_stats[w][row].x, largest);
    }
    write_result(call, plan, partials, work, first_row + row, dim, merged[row * kStride + dim],
                 make_float2(largest, sum));
  }
}

// The launcher of a format; float16 unless the format is bfloat16.
template <typename T, class Format>
void launch_decode(const AttentionCall& call, const AttentionPlan& plan, const Partials& partials,
                   Stream stream) {
  const auto launch = [&](auto bucket) {
    attention_decode_kernel<T, Format, decltype(bucket)::value>
        <<<grid_of(call, plan), kDecodeWaves * device_wave_size(), 0,
           static_cast<gpuStream_t>(stream)>>>(call, plan, partials);
  };
  with_bucket(call, launch);
}

}  // namespace rocmforge::gpu
