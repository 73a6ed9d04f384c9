// Attention of few query rows where memory can be copied to LDS behind the computation: every wave
// of a block has keys of its own, 16 at a time, and never waits for the others until its part of
// the keys is done. Rows come to LDS as the cache has them, some steps ahead; matrix fragments are
// made from there in registers (attention_rows.h). Scores become weights in registers, too.
#pragma once

#include "hip/attention_matrix.h"
#include "hip/attention_rows.h"

namespace rocmforge::gpu {

// Half as many for large heads: stages have to fit into the 99 KiB of smaller cards.
constexpr int decode_waves(int bucket) { return bucket <= 128 ? 4 : 2; }

template <class Format, int kBucket>
struct WaveShape {
  using Rows = RowShape<Format, kBucket>;
  static constexpr bool kLarge = kBucket > 128;
  static constexpr int kWaves = decode_waves(kBucket), kThreads = kWaves * kWaveSize;
  static constexpr int kKeySteps = kBucket / 16, kTiles = kBucket / 8;

  // LDS, in bytes: queries that registers have no room for, then each wave's stages of keys and
  // values. Waves' results are merged there when all keys have been used.
  static constexpr int kQueryBytes = kLarge ? kKeySteps * kWaveSize * 16 : 0;
  static constexpr int kStageBytes = 2 * Rows::kBytes;
  static constexpr int kFitting = ((72 << 10) - kQueryBytes) / (kWaves * kStageBytes);
  static constexpr int kStages = kFitting < 2 ? 2 : kFitting > 4 ? 4 : kFitting;
  static constexpr int kStaged = kQueryBytes + kWaves * kStages * kStageBytes;
  static constexpr int kResultStride = kBucket + 4;
  static constexpr int kMerged =
      kWaves * kDecodeRows * kResultStride * static_cast<int>(sizeof(float));
  static constexpr int kBytes = kStaged > kMerged ? kStaged : kMerged;
  static_assert(kBytes <= 96 << 10);
};

// Copies of a wave's rows, 16 keys and their values at a time. Each lane looks up where one of them
// starts.
template <class Format, int kBucket>
struct RowCopier {
  using Rows = RowShape<Format, kBucket>;
  const AttentionCall& call;
  const Work& work;
  int end;
  const uint8_t** table;  // the wave's: where keys start, then values
  struct Head {
    int bytes;
    int unit;   // of a copy: 16, kGrain or, at odd addresses, 2
    int place;  // in the first unit of 16
  } key, value;

  __device__ __forceinline__ RowCopier(const AttentionCall& call, const Work& work, int end,
                                       const uint8_t** table)
      : call(call), work(work), end(end), table(table) {
    key = head_of(call.k, static_cast<int>(call.head_dim));
    value = head_of(call.v, static_cast<int>(call.value_dim));
  }

  // Whether copies pass the cache of the compute unit, which does not see what others write.
  __device__ __forceinline__ bool copies_whole_units() const {
    return key.unit == 16 && value.unit == 16;
  }

  // Starts to copy the rows of the keys from `first` on; past the end the last one is.
  __device__ __forceinline__ void stage(int first, uint8_t* to) const {
    const int lane = threadIdx.x % kWaveSize;
    const bool keys = lane < kRowsStaged;
    const int position = first + lane % kRowsStaged;
    const CacheView& view = keys ? call.k : call.v;
    const uint8_t* own =
        cache_row(call, view, work.batch, work.kv_head, position < end ? position : end - 1);
    wave_barrier();  // the rows before have been looked up
    table[lane] = own;
    wave_barrier();
    copy(table, key, to);
    copy(table + kRowsStaged, value, to + Rows::kBytes);
    // The last units are not whole: a lane copies those of its own row.
    static_assert(2 * kRowsStaged == kWaveSize, "values' rows follow those of keys");
    const int unit = keys ? key.unit : value.unit, place = keys ? key.place : value.place;
    const int last = place + (keys ? key.bytes : value.bytes);
    if (Rows::kUnits > Rows::kWholeUnits && unit == 16) {
#pragma unroll
      for (int u = Rows::kWholeUnits; u < Rows::kUnits; ++u) {
        copy_unit<16>(own - place, 16 * u, last, to + lane * Rows::kStride);
      }
    }
  }

 private:
  __device__ __forceinline__ Head head_of(const CacheView& view, int dims) const {
    const auto paged = call.block_table != nullptr;
    const auto steps = static_cast<int>(view.position_stride | (paged ? view.block_stride : 0));
    const auto first =
        static_cast<int>(reinterpret_cast<uintptr_t>(view.data) + work.kv_head * view.head_stride +
                         (paged ? 0 : work.batch * view.block_stride));
    const int bytes = dims / Format::kBlock * Format::kBytes;
    if (Format::kBlock == 1 || (steps % 16 == 0 && first % Rows::kGrain == 0)) {
      return {bytes, 16, first & (16 - Rows::kGrain)};
    }
    return {bytes, (steps | first) % Rows::kGrain == 0 ? Rows::kGrain : 2, 0};
  }

  static __device__ __forceinline__ void copy(const uint8_t* const* rows, Head head, uint8_t* to) {
    if (head.bytes == Rows::kHeadBytes && head.unit == 16) {
      constexpr unsigned kUnits = Rows::kWholeUnits, kAll = kRowsStaged * kUnits;
#pragma unroll
      for (unsigned n = 0; n < (kAll + kWaveSize - 1) / kWaveSize; ++n) {
        const unsigned i = threadIdx.x % kWaveSize + n * kWaveSize;
        if (kAll % kWaveSize != 0 && i >= kAll) break;
        const unsigned row = i / kUnits, at = i % kUnits * 16;
        copy_to_lds<16>(rows[row] - head.place + at, to + row * Rows::kStride + at);
      }
    } else if (head.unit == 16) {
      copy_units<16, Rows::kWholeUnits>(rows, head, to);
    } else if constexpr (Format::kBlock > 1) {
      if (head.unit == Rows::kGrain) {
        copy_units<Rows::kGrain, Rows::kHeadBytes / Rows::kGrain>(rows, head, to);
      } else {
        copy_units<2, Rows::kHeadBytes / 2>(rows, head, to);
      }
    }
  }

  // Zeros follow a head.
  template <int kUnit, int kUnits>
  static __device__ __forceinline__ void copy_units(const uint8_t* const* rows, const Head& head,
                                                    uint8_t* to) {
#pragma unroll 1
    for (int i = threadIdx.x % kWaveSize; i < kRowsStaged * kUnits; i += kWaveSize) {
      const int row = i / kUnits;
      copy_unit<kUnit>(rows[row] - head.place, i % kUnits * kUnit, head.place + head.bytes,
                       to + row * Rows::kStride);
    }
  }
  template <int kUnit>
  static __device__ __forceinline__ void copy_unit(const uint8_t* row, int at, int end,
                                                   uint8_t* to) {
    const int left = end > at ? end - at : 0;
    copy_to_lds<kUnit>(row + (left > 0 ? at : 0), to + at, left < kUnit ? left : kUnit);
  }
};

template <typename T, class Format, int kBucket>
__global__ void __launch_bounds__(decode_waves(kBucket) * kWaveSize, kBucket <= 128 ? 3 : 2)
    attention_decode_waves_kernel(AttentionCall call, AttentionPlan plan, Partials partials) {
  if (!call.at_rest) follow_previous();
  using Shape = WaveShape<Format, kBucket>;
  using Rows = RowShape<Format, kBucket>;
  using Fragments = RowFragments<Format, kBucket>;
  constexpr int kGroupSteps = Fragments::kSteps, kKeyGroups = Shape::kKeySteps / kGroupSteps;
  extern __shared__ __align__(16) uint8_t memory[];
  __shared__ const uint8_t* tables[Shape::kWaves][2 * kRowsStaged];
  __shared__ float2 stats_of[Shape::kWaves][kDecodeRows];

  const DecodeShare share(call, plan, kRowsStaged);
  if (share.is_idle()) return;
  const Work& work = share.work;
  const KeyRange& range = share.range;
  const int wave = threadIdx.x / kWaveSize, lane = threadIdx.x % kWaveSize;
  const int head_dim = static_cast<int>(call.head_dim), dims = static_cast<int>(call.value_dim);
  const ScoreRule rule(call);
  Softmax softmax;
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    const float2 none = make_float2(kNoScore, 0.0f);
    const int row = share.row_at(lane_query(lane, i));
    softmax.start(i, wave == 0 ? first_stats(call, plan, work.kv_head, row, work.split) : none);
  }
  const auto scoring = [&](int i) {
    return scoring_of(call, plan, share.length, work.kv_head, share.row_at(lane_query(lane, i)));
  };

  const RowCopier<Format, kBucket> copier(call, work, range.end, tables[wave]);
  uint8_t* const stages = memory + Shape::kQueryBytes + wave * Shape::kStages * Shape::kStageBytes;
  const auto first_key = [&](int step) {
    return range.begin + (step * Shape::kWaves + wave) * kRowsStaged;
  };
  const auto stage = [&](int step, int slot) {
    const int first = first_key(step);
    if (first < range.end) copier.stage(first, stages + slot * Shape::kStageBytes);
    close_copies();
  };
  const auto begin = [&] {
#pragma unroll 1
    for (int step = 0; step < Shape::kStages - 1; ++step) stage(step, step);
  };
  // Keys that were there before the step can come while the kernel before, which may write the new
  // ones, still runs.
  const int end_of_first = first_key(Shape::kStages - 2) + kRowsStaged;
  const int old_end = share.length - static_cast<int>(call.queries);
  const bool begun = call.at_rest && copier.copies_whole_units() &&
                     (end_of_first < range.end ? end_of_first : range.end) <= old_end;
  if (call.at_rest && !begun) follow_previous();
  begin();
  if (begun) follow_previous();

  // Queries in the order of the keys' fragments, as they stand in memory.
  const auto query_step = [&](int s) {
    StepA<T> step;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const auto* query =
          static_cast<const uint16_t*>(call.q) +
          query_offset(call, plan, work.batch, work.kv_head, share.row_at(lane_query(lane, w % 2)));
      const int dim = Fragments::key_dim(s / kGroupSteps, lane % 4, s % kGroupSteps, w / 2);
      step.words[w] = dim < head_dim ? *reinterpret_cast<const uint32_t*>(query + dim) : 0;
    }
    return step;
  };
  constexpr DType kOwn = std::is_same_v<T, __half> ? DType::kFloat16 : DType::kBFloat16;
  const auto convert_step = [&](StepA<T>& step) {
#pragma unroll
    for (uint32_t& word : step.words) word = convert_pair<T>(call.dtype, word);
  };
  auto* const shared_queries = reinterpret_cast<StepA<T>*>(memory) + lane;
  StepA<T> held[Shape::kLarge ? 1 : Shape::kKeySteps];
  if constexpr (Shape::kLarge) {
#pragma unroll 1
    for (int s = wave; s < Shape::kKeySteps; s += Shape::kWaves) {
      StepA<T> step = query_step(s);
      if (call.dtype != kOwn) convert_step(step);
      shared_queries[s * kWaveSize] = step;
    }
    __syncthreads();
  } else {
#pragma unroll
    for (int s = 0; s < Shape::kKeySteps; ++s) held[s] = query_step(s);
    if (call.dtype != kOwn) {
#pragma unroll
      for (StepA<T>& step : held) convert_step(step);
    }
  }

  float out[Shape::kTiles][4] = {};
  int slot = 0;
  for (int step = 0; first_key(step) < range.end; ++step) {
    await_copies<Shape::kStages - 2>();
    wave_barrier();  // all lanes' copies are there, and the step before has been computed
    stage(step + Shape::kStages - 1, slot == 0 ? Shape::kStages - 1 : slot - 1);
    const uint8_t* const keys = stages + slot * Shape::kStageBytes;
    slot = slot == Shape::kStages - 1 ? 0 : slot + 1;

    Tile scores[1] = {};
#pragma unroll
    for (int n = 0; n < kKeyGroups; ++n) {
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        StepB<T> k[kGroupSteps];
        Fragments::load_keys(keys + (lane / 4 + 8 * j) * Rows::kStride + copier.key.place, n,
                             lane % 4, k);
#pragma unroll
        for (int s = 0; s < kGroupSteps; ++s) {
          const int at = n * kGroupSteps + s;
          float* sums = scores[0].values + 4 * j;
          if constexpr (Shape::kLarge) {
            const uint4 q = *reinterpret_cast<const uint4*>(shared_queries + at * kWaveSize);
            const StepA<T> words = {{q.x, q.y, q.z, q.w}};
            multiply_step(sums, words, k[s]);
          } else {
            multiply_step(sums, held[at], k[s]);
          }
        }
      }
    }

    const int first = first_key(step);
    const bool whole = first >= share.common.begin && first + kRowsStaged <= share.common.end;
    float factors[kLaneQueries];
    softmax_tile(rule, scoring, first, whole, scores, softmax, factors);
    if (rises(factors)) {
#pragma unroll
      for (int u = 0; u < Shape::kTiles; ++u) {
#pragma unroll
        for (int e = 0; e < 4; ++e) out[u][e] *= factors[e / 2];
      }
    }

    StepA<T> weights;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const float* pair = scores[0].values + 2 * w;
      weights.words[w] = pack_pair<T>(pair[0], pair[1]);
    }
    const StagedRows values = {keys + Rows::kBytes + copier.value.place, Rows::kStride};
#pragma unroll
    for (int n = 0; n < kBucket / 64; ++n) {
      StepB<T> v[8];
      Fragments::load_values(values, n, lane, v);
#pragma unroll
      for (int i = 0; i < 8; ++i) multiply_step(out[8 * n + i], weights, v[i]);
    }
  }

  softmax.finish();
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    if (lane_part(lane) == 0) {
      stats_of[wave][lane_query(lane, i)] = make_float2(softmax.largest[i], softmax.sum[i]);
    }
  }
  await_copies<0>();
  __syncthreads();
  const auto largest_of = [&](int row) {
    float largest = stats_of[0][row].x;
#pragma unroll
    for (int w = 1; w < Shape::kWaves; ++w) largest = fmaxf(largest, stats_of[w][row].x);
    return largest;
  };
  auto* const merged = reinterpret_cast<float*>(memory);
#pragma unroll
  for (int i = 0; i < kLaneQueries; ++i) {
    const int row = lane_query(lane, i);
    if (row >= share.rows) continue;
    const float factor = rescale(softmax.largest[i], largest_of(row));
    float* to = merged + (wave * kDecodeRows + row) * Shape::kResultStride;
#pragma unroll
    for (int u = 0; u < Shape::kTiles; ++u) {
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const int column = lane % 4 * 2 + e;
        to[Fragments::value_dim(u / 8, u % 8, column)] = out[u][2 * i + e] * factor;
      }
    }
  }
  __syncthreads();
  for (int row = wave; row < share.rows; row += Shape::kWaves) {
    const float largest = largest_of(row);
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w) {
      total += stats_of[w][row].y * rescale(stats_of[w][row].x, largest);
    }
    const ResultRow result(call, plan, partials, work, share.first_row + row,
                           make_float2(largest, total), lane == 0);
    for (int dim = 2 * lane; dim < dims; dim += 2 * kWaveSize) {
      float low = 0.0f, high = 0.0f;
#pragma unroll
      for (int w = 0; w < Shape::kWaves; ++w) {
        const float* from = merged + (w * kDecodeRows + row) * Shape::kResultStride + dim;
        low += from[0], high += from[1];
      }
      result.write_pair(dim, low, high);
    }
  }
}

}  // namespace rocmforge::gpu
