// Attention's two products on matrix units (mma.h), for 16 query rows at a time.
//
// A lane's part of a product tile belongs to one query on AMD (a column, so scores are formed as
// K.Q') and to two on NVIDIA (rows of Q.K'). Which key a tile's row or column stands for is free,
// too: keys are dealt out so that a lane's scores are, in order, the span of weights that it has to
// pass for the second product, whose depth is kSlots tiles of keys. Weights never leave registers.
// Where values can be read from LDS transposed, their spans have the order of scores already, and
// keys stay in theirs.
#pragma once

#include "hip/attention_work.h"
#include "hip/mma.h"

namespace rocmforge::gpu {

constexpr bool kQueryIsColumn = kLaneRowsA == 1;
static_assert(kQueryIsColumn != kLoadsTransposed);
constexpr int kLaneQueries = kQueryIsColumn ? 1 : 2;
constexpr int kChunkKeys = kMmaDepth;                        // keys of one step
constexpr int kParts = kQueryIsColumn ? kWaveSize / 16 : 4;  // lanes that share a query
constexpr int kPartKeys = kChunkKeys / kParts;

// Rows of queries, and of what is multiplied with them, of which a lane passes spans.
__device__ __forceinline__ int query_row(int lane, int i) {
  return kQueryIsColumn ? row_of_b(lane, i) : row_of_a(lane, i);
}
__device__ __forceinline__ int other_row(int lane, int j) {
  return kQueryIsColumn ? row_of_a(lane, j) : row_of_b(lane, j);
}

// Which of the kParts lanes of a query a lane is, and the query of the tile that is its i-th.
__device__ __forceinline__ int lane_part(int lane) { return kQueryIsColumn ? lane / 16 : lane % 4; }
__device__ __forceinline__ int lane_query(int lane, int i) {
  return kQueryIsColumn ? lane % 16 : lane / 4 + 8 * i;
}

// What element e of a lane's tile stands for: which of the lane's queries, and which other row.
__device__ __forceinline__ constexpr int element_query(int e) {
  return kQueryIsColumn ? 0 : e / 2 % 2;
}
__device__ __forceinline__ int element_other(int lane, int e) {
  return kQueryIsColumn ? acc_row(lane, e) : acc_col(lane, e);
}

// What a block of few query rows works at: rows [first_row, first_row + rows) of a key head, whose
// sequence has `length` keys, and the keys of its split, cut at multiples of `granule`.
struct DecodeShare {
  Work work;
  int first_row, rows, length;
  KeyRange range, common;  // common: keys that all rows see

  __device__ __forceinline__ DecodeShare(const AttentionCall& call, const AttentionPlan& plan,
                                         int granule)
      : work(work_of(call, plan, blockIdx.x)),
        first_row(work.tile * plan.tile_rows),
        rows(plan.rows - first_row < plan.tile_rows ? plan.rows - first_row : plan.tile_rows),
        length(sequence_length(call, work.batch)) {
    const int first_query = first_row / plan.group;
    const int last_query = (first_row + rows - 1) / plan.group;
    range = keys_of_tile(call, plan, length, work.tile);
    work.splits = splits_of(plan, range);
    range.begin -= range.begin % granule;
    range = split_keys(range, work.split, work.splits, granule);
    common = common_keys(call, length, first_query, last_query);
  }
  // Whether the tile has fewer splits than blocks, and this block none of them.
  __device__ __forceinline__ bool is_idle() const { return work.split >= work.splits; }
  // Rows that there are not are those of the last one, and never written.
  __device__ __forceinline__ int row_at(int row) const {
    return first_row + (row < rows ? row : rows - 1);
  }
};

template <typename T>
__device__ __forceinline__ void multiply_add(Tile& tile, const Span<T> (&queries)[kLaneQueries],
                                             const Span<T> (&others)[kLaneQueries]) {
  if constexpr (kQueryIsColumn) {
    mma(tile, others, queries);
  } else {
    mma(tile, queries, others);
  }
}

// Where in the chunk the key of element e of tile t stands.
__device__ __forceinline__ int element_key(int lane, int t, int e) {
  if constexpr (kLoadsTransposed) {
    return 16 * t + element_other(lane, e);
  } else {
    return lane / 16 * kPartKeys + t * kAccElements + e;
  }
}

// The tile and its row of a place in the chunk, as one number: tile t has 16 t and the following.
__device__ __forceinline__ int key_row(int place) {
  if constexpr (kLoadsTransposed) {
    return place;
  } else {
    const int part = place / kPartKeys, rest = place % kPartKeys;
    const bool alternating = acc_row(0, 1) == 2;  // the halves of the wave have every other row
    const int t = rest / kAccElements, e = rest % kAccElements;
    return 16 * t + (alternating ? part + kParts * e : part * kAccElements + e);
  }
}

// Where the weight of a key stands in a row of weights in LDS: spans of it fit those of values.
__device__ __forceinline__ int weight_place(int key) {
  if constexpr (kLoadsTransposed) {
    return key % 8 / 2 * 16 + key / 16 * 4 + key % 16 / 8 * 2 + key % 2;
  } else {
    return key;
  }
}

// The lane's weights of a chunk, kSlots tiles, as spans of its queries.
template <typename T>
__device__ __forceinline__ void weight_spans(const Tile* weights, Span<T> (&spans)[kLaneQueries]) {
  if constexpr (!kQueryIsColumn) {
#pragma unroll
    for (int i = 0; i < kLaneQueries; ++i) {
#pragma unroll
      for (int w = 0; w < 8; ++w) {
        const float* values = weights[w / 2].values + 4 * (w % 2) + 2 * i;
        spans[i].words[w] = pack_pair<T>(values[0], values[1]);
      }
    }
  } else if constexpr (kSlots == kParts) {
#pragma unroll
    for (int w = 0; w < 8; ++w) {
      const float* values = weights[2 * w / kAccElements].values + 2 * w % kAccElements;
      spans[0].words[w] = pack_pair<T>(values[0], values[1]);
    }
  } else {  // one slot for both halves of the wave, which have half of the keys each
    const bool later = threadIdx.x % kWaveSize >= 16;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const uint32_t own = pack_pair<T>(weights[0].values[2 * w], weights[0].values[2 * w + 1]);
      const uint32_t other = wave_shuffle_xor(own, 16);
      spans[0].words[w] = later ? other : own;
      spans[0].words[4 + w] = later ? own : other;
    }
  }
}

// The largest or the sum over the lanes that share a query.
template <typename Op>
__device__ __forceinline__ float over_parts(float value, Op op) {
  constexpr int kFirst = kQueryIsColumn ? 16 : 1;
#pragma unroll
  for (int mask = kFirst; mask < kFirst * kParts; mask *= 2) {
    value = op(value, wave_shuffle_xor(value, mask));
  }
  return value;
}

// How a lane's scores lie in 16 x 16 tiles, kSlots of which are a chunk of keys.
//   kQueries                     the lane's
//   kLift                        weights are so many powers of two larger
//   each(scores, body)           body(score, which of the queries, which key of those there are)
//   over(value, op)              over the lanes that share the queries
//   leads(lane)                  whether a lane is the first of those
struct TileScores {
  static constexpr int kQueries = kLaneQueries, kLift = 0;
  template <int kTiles, class Body>
  static __device__ __forceinline__ void each(Tile (&tiles)[kTiles], Body body) {
    const int lane = threadIdx.x % kWaveSize;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int chunk = t / kSlots * kChunkKeys;
#pragma unroll
      for (int e = 0; e < kAccElements; ++e) {
        body(tiles[t].values[e], element_query(e), chunk + element_key(lane, t % kSlots, e));
      }
    }
  }
  template <typename Op>
  static __device__ __forceinline__ float over(float value, Op op) {
    return over_parts(value, op);
  }
  static __device__ __forceinline__ bool leads(int lane) { return lane_part(lane) == 0; }
};

// The softmax of a lane's queries so far; sums are its own until `finish`. Weights are powers of
// two of scores less `base`: the largest score so far, but for Places::kLift.
template <class Places>
struct Softmax {
  static constexpr int kQueries = Places::kQueries;
  float base[kQueries], sum[kQueries];

  // Before any key.
  __device__ __forceinline__ void start(int i, float2 stats) {
    base[i] = stats.x - Places::kLift;
    sum[i] = Places::leads(threadIdx.x % kWaveSize) ? stats.y * (1 << Places::kLift) : 0.0f;
  }

  __device__ __forceinline__ void finish() {
#pragma unroll
    for (float& s : sum) {
      s = Places::over(s, [](float a, float b) { return a + b; });
    }
  }
};

__device__ __forceinline__ float tanh_of(float x) {
  return 1.0f - 2.0f * reciprocal(exp2_of(2.0f * kLog2e * x) + 1.0f);
}

// How products become scores, the same for the whole block.
struct ScoreRule {
  float scale;  // to units of log2, or to units of the cap
  float cap;    // in log2; 0: none
  bool biased;  // ALiBi
  bool plain;   // scores are products times a positive scale

  explicit __device__ ScoreRule(const AttentionCall& call)
      : scale(call.softcap > 0 ? call.scale / call.softcap : call.scale * kLog2e),
        cap(call.softcap * kLog2e),
        biased(call.alibi_slopes != nullptr),
        plain(cap == 0 && !biased && scale > 0) {}

  // whole: the query sees the key.
  __device__ __forceinline__ float score(float product, const Scoring& row, int key,
                                         bool whole) const {
    float s = product * scale;
    if (cap > 0) s = cap * tanh_of(s);
    if (biased) s = fmaf(row.slope, static_cast<float>(key - row.position), s);
    return whole || (key >= row.seen.begin && key < row.seen.end) ? s : kNoScore;
  }
};

// Products with the keys from `first` on become weights; `factors` is what older sums are
// multiplied by. whole: every query sees every key.
template <class Places, class ScoringOf, class Scores>
__device__ __forceinline__ void softmax_tile(const ScoreRule& rule, ScoringOf scoring_of_query,
                                             int first, bool whole, Scores& scores,
                                             Softmax<Places>& softmax,
                                             float (&factors)[Places::kQueries]) {
  constexpr int kQueries = Places::kQueries;
  // Plain scores are never formed: the scale is part of the exponent.
  const float scale = rule.plain ? rule.scale : 1.0f;
  Scoring rows[kQueries];
  if (!rule.plain || !whole) {
#pragma unroll
    for (int i = 0; i < kQueries; ++i) rows[i] = scoring_of_query(i);
  }
  if (!rule.plain) {
    Places::each(scores, [&](float& s, int, int) { s *= rule.scale; });
    if (rule.cap > 0) {
      Places::each(scores, [&](float& s, int, int) { s = rule.cap * tanh_of(s); });
    }
    Places::each(scores, [&](float& s, int i, int key) {
      s = fmaf(rows[i].slope, static_cast<float>(first + key - rows[i].position), s);
    });
  }
  if (!whole) {
    Places::each(scores, [&](float& s, int i, int key) {
      s = first + key >= rows[i].seen.begin && first + key < rows[i].seen.end ? s : kNoScore;
    });
  }
  float largest[kQueries], against[kQueries];
#pragma unroll
  for (int i = 0; i < kQueries; ++i) largest[i] = kNoScore;
  Places::each(scores, [&](float& s, int i, int) { largest[i] = fmaxf(largest[i], s); });
#pragma unroll
  for (int i = 0; i < kQueries; ++i) {
    largest[i] = Places::over(largest[i], [](float a, float b) { return fmaxf(a, b); });
    const float base = fmaxf(softmax.base[i], fmaf(largest[i], scale, -Places::kLift));
    against[i] = base == kNoScore ? 0.0f : base;
    factors[i] = exp2_of(softmax.base[i] - against[i]);
    softmax.base[i] = base;
    softmax.sum[i] *= factors[i];
  }
  Places::each(scores, [&](float& s, int i, int) {
    s = exp2_of(fmaf(s, scale, -against[i]));
    softmax.sum[i] += s;
  });
}

// Whether older sums change: most tiles of keys have no new maximum.
template <int kQueries>
__device__ __forceinline__ bool rises(const float (&factors)[kQueries]) {
  bool rises = false;
#pragma unroll
  for (float factor : factors) rises |= factor != 1.0f;
  return rises;
}

// A row of a block's result. stats: the row's maximum and sum over the block's keys; the lane that
// leads leaves them for the merge.
struct ResultRow {
  const AttentionCall& call;
  const Partials& partials;
  bool final;
  int64_t first;  // where the row starts, in the result or in the partial values
  float inverse;

  __device__ __forceinline__ ResultRow(const AttentionCall& call, const AttentionPlan& plan,
                                       const Partials& partials, const Work& work, int row,
                                       float2 stats, bool leads)
      : call(call), partials(partials), final(work.splits == 1), inverse(1.0f) {
    if (final) {
      first = output_row(call, plan, work.batch, work.kv_head, row) * call.value_dim;
      inverse = stats.y == 0.0f ? 0.0f : 1.0f / stats.y;
    } else {
      const int64_t to = partial_row(call, plan, work, row);
      first = to * call.value_dim;
      if (leads) partials.stats[to] = stats;
    }
  }

  // A lane's part of the tile of the 16 dims from `dim` on, of its query i; there are `dims`, whole
  // groups of eight.
  __device__ __forceinline__ void write(const Tile& tile, int i, int lane, int dim,
                                        int dims) const {
    const bool neighbours = element_other(0, 1) == 1;
    const auto each = [&](auto store) {
#pragma unroll
      for (int e = 0; e < kAccElements; ++e) {
        const int own = dim + element_other(lane, e);
        if (element_query(e) != i || own / 8 * 8 >= dims || (neighbours && e % 2 != 0)) continue;
        store(first + own, tile.values[e] * inverse, tile.values[e | 1] * inverse);
      }
    };
    if (!final) {
      each([&](int64_t to, float low, float high) {
        partials.values[to] = low;
        if (neighbours) partials.values[to + 1] = high;
      });
    } else {
      auto* out = static_cast<uint16_t*>(call.out);
      each([&](int64_t to, float low, float high) {
        const uint32_t pair = rounded(low, high);
        if (neighbours) {
          *reinterpret_cast<uint32_t*>(out + to) = pair;
        } else {
          out[to] = static_cast<uint16_t>(pair);
        }
      });
    }
  }

  // Two dims of the row; `dim` is even.
  __device__ __forceinline__ void write_pair(int dim, float low, float high) const {
    if (!final) {
      *reinterpret_cast<float2*>(partials.values + first + dim) = make_float2(low, high);
    } else {
      *reinterpret_cast<uint32_t*>(static_cast<uint16_t*>(call.out) + first + dim) =
          rounded(low * inverse, high * inverse);
    }
  }

 private:
  __device__ __forceinline__ uint32_t rounded(float low, float high) const {
    return call.dtype == DType::kFloat16 ? pack_pair<__half>(low, high)
                                         : pack_pair<gpu_bfloat16>(low, high);
  }
};

// Largest finite float16: queries beyond it, which bfloat16 can hold, are held to it.
constexpr float kMaxHalf = 65504.0f;

// A pair of numbers of 16 bits as T.
template <typename T>
__device__ __forceinline__ uint32_t convert_pair(DType from, uint32_t pair) {
  if constexpr (std::is_same_v<T, __half>) {
    if (from == DType::kFloat16) return pair;
    const float low = __uint_as_float(pair << 16), high = __uint_as_float(pair & 0xffff0000u);
    return pack_pair<T>(fminf(fmaxf(low, -kMaxHalf), kMaxHalf),
                        fminf(fmaxf(high, -kMaxHalf), kMaxHalf));
  } else {
    if (from == DType::kBFloat16) return pair;
    return pack_pair<T>(low_half(pair), high_half(pair));
  }
}

// 16 values of a query from `dim` on, zeros from head_dim on. shifted: where head_dim ends in the
// middle of a span, that span is the last 16 values, of which those counted before are zeros.
template <typename T>
__device__ __forceinline__ Span<T> query_span(DType dtype, const uint16_t* query, int dim,
                                              int head_dim, bool shifted) {
  Span<T> span = {};
  if (dim < head_dim) {
    const uint4 low = *reinterpret_cast<const uint4*>(query + dim);
    const bool half = dim + 8 == head_dim;
    uint4 high = {};
    if (!half) high = *reinterpret_cast<const uint4*>(query + dim + 8);
    const uint4 zero = {};
    const uint4 first = half && shifted ? zero : low, second = half && shifted ? low : high;
    const uint32_t words[8] = {first.x,  first.y,  first.z,  first.w,
                               second.x, second.y, second.z, second.w};
#pragma unroll
    for (int w = 0; w < 8; ++w) span.words[w] = convert_pair<T>(dtype, words[w]);
  }
  return span;
}

}  // namespace rocmforge::gpu
