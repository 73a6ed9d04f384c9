// Attention of few query rows where memory can be copied to LDS behind the computation: every wave
// of a block has keys of its own, 16 at a time, and never waits for the others until its part of
// the keys is done. Rows come to LDS as the cache has them, some steps ahead, and are multiplied
// from there (attention_products.h). Scores become weights in registers.
#pragma once

#include "hip/attention_products.h"

namespace rocmforge::gpu {

// Half as many for large heads: stages have to fit into the 99 KiB of smaller cards.
constexpr int decode_waves(int bucket) { return bucket <= 128 ? 4 : 2; }

template <class Format, int kBucket, int kTiles>
struct WaveShape {
  using Rows = RowShape<Format, kBucket>;
  static constexpr int kWaves = decode_waves(kBucket), kThreads = kWaves * kWaveSize;
  static constexpr int kRows = kTiles * kFewDecodeRows;

  // LDS, in bytes: each wave's stages of keys and values. Waves' results are merged there when all
  // keys have been used.
  static constexpr int kStageBytes = 2 * Rows::kBytes;
  static constexpr int kFitting = (72 << 10) / (kWaves * kStageBytes);
  static constexpr int kStages = kFitting < 2 ? 2 : kFitting > 4 ? 4 : kFitting;
  static constexpr int kStaged = kWaves * kStages * kStageBytes;
  static constexpr int kResultStride = kBucket + 4;
  static constexpr int kMerged = kWaves * kRows * kResultStride * static_cast<int>(sizeof(float));
  static constexpr int kBytes = kStaged > kMerged ? kStaged : kMerged;
  static_assert(kBytes <= 96 << 10);
  // Blocks of a multiprocessor that registers are for.
  static constexpr int kBlocks = kBucket > 128 || (kTiles > 1 && Format::kBlock > 1) ? 2 : 3;
};

// 16 keys by eight queries to a tile: a lane has two keys of two queries.
template <int kTiles, int kWeightLift, bool kRowsApart>
struct ColumnScores {
  static constexpr int kQueries = 2 * kTiles, kLift = kWeightLift;
  template <class Body>
  static __device__ __forceinline__ void each(float (&scores)[kTiles][4], Body body) {
    const int key = key_row<kRowsApart>(threadIdx.x % kWaveSize / kSlots);
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) body(scores[j][e], 2 * j + e % 2, key + 8 * (e / 2));
    }
  }
  template <typename Op>
  static __device__ __forceinline__ float over(float value, Op op) {
#pragma unroll
    for (int mask = kSlots; mask < kWaveSize; mask *= 2) {
      value = op(value, wave_shuffle_xor(value, mask));
    }
    return value;
  }
  static __device__ __forceinline__ bool leads(int lane) { return lane < kSlots; }
  // The query of the block's that is the lane's i-th.
  static __device__ __forceinline__ int row(int lane, int i) {
    return i / 2 * kFewDecodeRows + lane % kSlots * 2 + i % 2;
  }
};

constexpr int largest_power_within(int n) { return n < 2 ? n : 2 * largest_power_within(n / 2); }

// Copies of a wave's rows, 16 keys and their values at a time. Each lane looks up where one of them
// starts.
template <class Format, int kBucket>
struct RowCopier {
  using Rows = RowShape<Format, kBucket>;
  const AttentionCall& call;
  const Work& work;
  int end;
  const uint8_t** table;  // the wave's: where copies of keys start, then of values
  struct Head {
    int bytes;
    int unit;   // of a copy: 16, kGrain or, at odd addresses, 2
    int place;  // in its row
    int lead;   // of that, what is copied from memory
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
    table[lane] = own - (keys ? key.lead : value.lead);
    wave_barrier();
    copy(table, key, to);
    copy(table + kRowsStaged, value, to + Rows::kBytes);
  }

 private:
  __device__ __forceinline__ Head head_of(const CacheView& view, int dims) const {
    const auto paged = call.block_table != nullptr;
    const auto steps = static_cast<int>(view.position_stride | (paged ? view.block_stride : 0));
    const auto first =
        static_cast<int>(reinterpret_cast<uintptr_t>(view.data) + work.kv_head * view.head_stride +
                         (paged ? 0 : work.batch * view.block_stride));
    const int bytes = dims / Format::kBlock * Format::kBytes;
    if (steps % 16 == 0 && first % Rows::kGrain == 0) {
      const int place = first & ((steps % Rows::kSector == 0 ? Rows::kSector : 16) - Rows::kGrain);
      return {bytes, 16, place, Format::kBlock == 1 ? 0 : place};
    }
    return {bytes, (steps | first) % Rows::kGrain == 0 ? Rows::kGrain : 2, 0, 0};
  }

  static __device__ __forceinline__ void copy(const uint8_t* const* rows, const Head& head,
                                              uint8_t* to) {
    to += head.place - head.lead;
    if (head.unit == 16 && head.bytes == Rows::kHeadBytes) {
      copy_whole<0>(rows, head, to);
    } else if (head.unit == 16) {
      copy_units<16, Rows::kUnits>(rows, head, to);
    } else if constexpr (Format::kBlock > 1) {
      if (head.unit == Rows::kGrain) {
        copy_units<Rows::kGrain, Rows::kHeadBytes / Rows::kGrain>(rows, head, to);
      } else {
        copy_units<2, Rows::kHeadBytes / 2>(rows, head, to);
      }
    }
  }

  // Units of rows from kFirst on, as many as a power of two at a time, so that a lane always copies
  // the same.
  template <int kFirst>
  static __device__ __forceinline__ void copy_whole(const uint8_t* const* rows, const Head& head,
                                                    uint8_t* to) {
    if constexpr (kFirst < Rows::kUnits) {
      constexpr int kCount = largest_power_within(Rows::kUnits - kFirst);
      constexpr int kAtOnce = kWaveSize / kCount, kCopies = kRowsStaged / kAtOnce;
      static_assert(kAtOnce * kCopies == kRowsStaged);
      const int lane = threadIdx.x % kWaveSize, row = lane / kCount;
      const int at = 16 * (kFirst + lane % kCount);
      // Looked up before anything is copied: the compiler keeps both in order.
      const uint8_t* from[kCopies];
#pragma unroll
      for (int n = 0; n < kCopies; ++n) from[n] = rows[row + n * kAtOnce];
#pragma unroll
      for (int n = 0; n < kCopies; ++n) {
        uint8_t* const own = to + (row + n * kAtOnce) * Rows::kStride;
        if constexpr (Format::kBlock == 1 || 16 * (kFirst + kCount) <= Rows::kHeadBytes) {
          copy_to_lds<16>(from[n] + at, own + at);
        } else {
          copy_unit<16>(from[n], at, head.lead + Rows::kHeadBytes, own);
        }
      }
      copy_whole<kFirst + kCount>(rows, head, to);
    }
  }

  // Zeros follow a head.
  template <int kUnit, int kUnits>
  static __device__ __forceinline__ void copy_units(const uint8_t* const* rows, const Head& head,
                                                    uint8_t* to) {
#pragma unroll 1
    for (int i = threadIdx.x % kWaveSize; i < kRowsStaged * kUnits; i += kWaveSize) {
      const int row = i / kUnits;
      copy_unit<kUnit>(rows[row], i % kUnits * kUnit, head.lead + head.bytes,
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

template <typename T, class Format, int kBucket, int kTiles>
__global__ void __launch_bounds__((WaveShape<Format, kBucket, kTiles>::kThreads),
                                  (WaveShape<Format, kBucket, kTiles>::kBlocks))
    attention_decode_waves_kernel(AttentionCall call, AttentionPlan plan, Partials partials) {
  if (!call.at_rest) follow_previous();
  using Shape = WaveShape<Format, kBucket, kTiles>;
  using Rows = RowShape<Format, kBucket>;
  using Keys = KeyProducts<T, Format, kBucket>;
  constexpr bool kRowsApart = Keys::Fragments::kRowsApart;
  using Scores = ColumnScores<kTiles, kWeightLift<Format>, kRowsApart>;
  using Values = ValueSums<T, Format, kBucket, kTiles>;
  extern __shared__ __align__(32) uint8_t memory[];
  __shared__ const uint8_t* tables[Shape::kWaves][2 * kRowsStaged];
  __shared__ float2 stats_of[Shape::kWaves][Shape::kRows];

  const DecodeShare share(call, plan, kRowsStaged);
  if (share.is_idle()) return;
  const Work& work = share.work;
  const KeyRange& range = share.range;
  const int wave = threadIdx.x / kWaveSize, lane = threadIdx.x % kWaveSize;
  const int head_dim = static_cast<int>(call.head_dim), dims = static_cast<int>(call.value_dim);
  const ScoreRule rule(call);
  Softmax<Scores> softmax;
#pragma unroll
  for (int i = 0; i < Scores::kQueries; ++i) {
    const float2 none = make_float2(kNoScore, 0.0f);
    const int row = share.row_at(Scores::row(lane, i));
    softmax.start(i, wave == 0 ? first_stats(call, plan, work.kv_head, row, work.split) : none);
  }
  const auto scoring = [&](int i) {
    return scoring_of(call, plan, share.length, work.kv_head, share.row_at(Scores::row(lane, i)));
  };

  const RowCopier<Format, kBucket> copier(call, work, range.end, tables[wave]);
  uint8_t* const stages = memory + wave * Shape::kStages * Shape::kStageBytes;
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

  Keys queries[kTiles];
#pragma unroll
  for (int j = 0; j < kTiles; ++j) {
    const int row = share.row_at(j * kFewDecodeRows + lane / kSlots);
    const auto* query = static_cast<const uint16_t*>(call.q) +
                        query_offset(call, plan, work.batch, work.kv_head, row);
    const auto pair_of = [&](int dim) {
      return dim < head_dim ? *reinterpret_cast<const uint32_t*>(query + dim) : 0;
    };
    queries[j].load(call.dtype, pair_of, reinterpret_cast<float*>(stats_of[wave]));
  }

  Values values;
  int slot = 0;
  for (int step = 0; first_key(step) < range.end; ++step) {
    await_copies<Shape::kStages - 2>();
    wave_barrier();  // all lanes' copies are there, and the step before has been computed
    stage(step + Shape::kStages - 1, slot == 0 ? Shape::kStages - 1 : slot - 1);
    const uint8_t* const rows = stages + slot * Shape::kStageBytes;
    slot = slot == Shape::kStages - 1 ? 0 : slot + 1;

    float scores[kTiles][4];
    const uint8_t* const key =
        rows + key_row<kRowsApart>(lane / kSlots) * Rows::kStride + copier.key.place;
    Keys::multiply({key, key + 8 * Rows::kStride}, queries, scores);

    const int first = first_key(step);
    const bool whole = first >= share.common.begin && first + kRowsStaged <= share.common.end;
    float factors[Scores::kQueries];
    softmax_tile(rule, scoring, first, whole, scores, softmax, factors);
    if (rises(factors)) values.rescale(factors);

    StepB<T> weights[kTiles];
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const float* pair = scores[j] + 2 * k;
        weights[j].words[k] = transposed(pack_pair<T>(pair[0], pair[1]));
      }
    }
    values.add({rows + Rows::kBytes + copier.value.place, Rows::kStride}, weights);
  }

  softmax.finish();
#pragma unroll
  for (int i = 0; i < Scores::kQueries; ++i) {
    if (Scores::leads(lane)) {
      stats_of[wave][Scores::row(lane, i)] = make_float2(softmax.base[i], softmax.sum[i]);
    }
  }
  await_copies<0>();
  __syncthreads();
  const auto base_of = [&](int row) {
    float base = stats_of[0][row].x;
#pragma unroll
    for (int w = 1; w < Shape::kWaves; ++w) base = fmaxf(base, stats_of[w][row].x);
    return base;
  };
  auto* const merged = reinterpret_cast<float*>(memory);
#pragma unroll
  for (int i = 0; i < Scores::kQueries; ++i) {
    const int row = Scores::row(lane, i);
    if (row >= share.rows) continue;
    const float factor = rescale(softmax.base[i], base_of(row));
    float* to = merged + (wave * Shape::kRows + row) * Shape::kResultStride;
#pragma unroll
    for (int u = 0; u < kBucket / 16; ++u) {
#pragma unroll
      for (int e = i % 2; e < 4; e += 2) {
        to[Values::dim(u, e)] = values.value(i / 2, u, e) * factor;
      }
    }
  }
  __syncthreads();
  for (int row = wave; row < share.rows; row += Shape::kWaves) {
    const float base = base_of(row);
    float total = 0.0f;
#pragma unroll
    for (int w = 0; w < Shape::kWaves; ++w) {
      total += stats_of[w][row].y * rescale(stats_of[w][row].x, base);
    }
    const ResultRow result(call, plan, partials, work, share.first_row + row,
                           make_float2(base, total), lane == 0);
    for (int dim = 2 * lane; dim < dims; dim += 2 * kWaveSize) {
      float low = 0.0f, high = 0.0f;
#pragma unroll
      for (int w = 0; w < Shape::kWaves; ++w) {
        const float* from = merged + (w * Shape::kRows + row) * Shape::kResultStride + dim;
        low += from[0], high += from[1];
      }
      result.write_pair(dim, low, high);
    }
  }
}

}  // namespace rocmforge::gpu
