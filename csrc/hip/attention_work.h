// How attention is cut into blocks, and what every attention kernel asks of a call.
//
// The T * group query rows of a key head (group = heads per key head) are numbered token by token.
// A block takes a tile of neighbouring rows and one part ("split") of the keys that they see. With
// more than one split, each leaves its maximum, sum and weighted values in the workspace, and a
// second kernel merges them in order. Scores are kept in units of log2: softmax by powers of two.
#pragma once

#include "hip/attention.h"
#include "hip/cache_formats.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {

constexpr float kLog2e = 1.4426950408889634f;
constexpr float kNoScore = -__builtin_inff();

struct Partials {
  float* values;  // [batch, kv_heads, rows, splits, value_dim]
  float2* stats;  // [batch, kv_heads, rows, splits]: maximum (log2), sum
};

// What the launcher decides, from shapes and the device alone.
struct AttentionPlan {
  int tile_rows, tiles, splits;
  int rows, group;  // query rows of a key head, query heads
  int whole_keys;   // tiles that see fewer are not split
};

struct Work {
  int batch, kv_head, tile, split;
  int splits;  // of the tile
};

struct KeyRange {
  int begin, end;
};

// Heads are the fastest: neighbouring blocks read neighbouring bytes of the cache.
__device__ __forceinline__ Work work_of(const AttentionCall& call, const AttentionPlan& plan,
                                        unsigned index) {
  const auto kv_heads = static_cast<unsigned>(call.kv_heads);
  const unsigned kv_head = index % kv_heads, rest = index / kv_heads;
  const unsigned split = rest % plan.splits, pair = rest / plan.splits;
  return {static_cast<int>(pair / plan.tiles), static_cast<int>(kv_head),
          static_cast<int>(pair % plan.tiles), static_cast<int>(split), plan.splits};
}

__device__ __forceinline__ int sequence_length(const AttentionCall& call, int batch) {
  const int64_t room = call.blocks_per_sequence * call.block_size;
  const int length = call.seq_lens[batch];
  return length < 0 ? 0 : length > room ? static_cast<int>(room) : length;
}

// The keys that a query at `position` sees; they are neighbours.
__device__ __forceinline__ KeyRange visible_keys(const AttentionCall& call, int length,
                                                 int position) {
  KeyRange seen = {0, call.causal ? position + 1 : length};
  if (call.window > 0 && position - call.window >= 0) {
    seen.begin = static_cast<int>(position - call.window + 1);
  }
  return seen;
}

// The keys that any of the rows [first, last] sees.
__device__ __forceinline__ KeyRange tile_keys(const AttentionCall& call, int length,
                                              int first_query, int last_query) {
  const int before = length - static_cast<int>(call.queries);
  const KeyRange first = visible_keys(call, length, before + first_query);
  const KeyRange last = visible_keys(call, length, before + last_query);
  return {first.begin, last.end > first.begin ? last.end : first.begin};
}

// The keys that any row of a tile sees.
__device__ __forceinline__ KeyRange keys_of_tile(const AttentionCall& call,
                                                 const AttentionPlan& plan, int length, int tile) {
  const int first = tile * plan.tile_rows, end = first + plan.tile_rows;
  const int last = (end < plan.rows ? end : plan.rows) - 1;
  return tile_keys(call, length, first / plan.group, last / plan.group);
}
__device__ __forceinline__ int splits_of(const AttentionPlan& plan, KeyRange keys) {
  return keys.end - keys.begin < plan.whole_keys ? 1 : plan.splits;
}

// The keys that all of the rows [first, last] see.
__device__ __forceinline__ KeyRange common_keys(const AttentionCall& call, int length,
                                                int first_query, int last_query) {
  const int before = length - static_cast<int>(call.queries);
  const KeyRange first = visible_keys(call, length, before + first_query);
  const KeyRange last = visible_keys(call, length, before + last_query);
  return {last.begin, first.end};
}

// Part `split` of a range, cut at multiples of `granule` keys from its beginning.
__device__ __forceinline__ KeyRange split_keys(KeyRange all, int split, int splits, int granule) {
  const int count = (all.end - all.begin + granule - 1) / granule;
  const auto cut = [&](int i) {
    return all.begin + static_cast<int>(int64_t{count} * i / splits) * granule;
  };
  const int end = cut(split + 1);
  return {cut(split), end < all.end ? end : all.end};
}

// Where a page's head starts; without a table, a sequence's. Pages outside the cache become its
// nearest one.
__device__ __forceinline__ int64_t page_offset(const AttentionCall& call, const CacheView& view,
                                               int batch, int kv_head, int page) {
  int64_t block = batch;
  if (call.block_table != nullptr) {
    const int64_t entry = call.block_table[batch * call.table_stride + page];
    block = entry < 0 ? 0 : entry < call.num_blocks ? entry : call.num_blocks - 1;
  }
  return block * view.block_stride + kv_head * view.head_stride;
}

// The bytes of a position's head.
__device__ __forceinline__ const uint8_t* cache_row(const AttentionCall& call,
                                                    const CacheView& view, int batch, int kv_head,
                                                    int position) {
  unsigned page = 0;
  if (call.block_table != nullptr) {
    const auto size = static_cast<unsigned>(call.block_size);
    page = static_cast<unsigned>(position) / size;
    position -= static_cast<int>(page * size);
  }
  return static_cast<const uint8_t*>(view.data) +
         page_offset(call, view, batch, kv_head, static_cast<int>(page)) +
         position * view.position_stride;
}

// The same for positions near each other, without a division for each. Past the end it stays at the
// last one.
struct RowCursor {
  const AttentionCall& call;
  const CacheView& view;
  const Work& work;
  int end;
  int64_t offset;             // of the page
  int position, page, place;  // in the page

  __device__ __forceinline__ RowCursor(const AttentionCall& call, const CacheView& view,
                                       const Work& work, int end)
      : call(call), view(view), work(work), end(end), offset(0), page(0) {
    if (call.block_table == nullptr) turn_to(0);
  }

  __device__ __forceinline__ void start(int first) {
    position = first < end ? first : end - 1;
    place = position;
    if (call.block_table == nullptr) return;
    const int size = static_cast<int>(call.block_size), to = position / size;
    place -= to * size;
    turn_to(to);
  }

  __device__ __forceinline__ void turn_to(int to) {
    page = to;
    offset = page_offset(call, view, work.batch, work.kv_head, page);
  }

  // Whether `count` positions from `first` on are there, with the same bytes between them.
  __device__ __forceinline__ bool neighbours(int first, int count) const {
    return call.block_table == nullptr && first + count <= end;
  }

  __device__ __forceinline__ const uint8_t* at(int next) {
    next = next < end ? next : end - 1;
    place += next - position;
    position = next;
    if (call.block_table != nullptr) {
      const auto size = static_cast<int>(call.block_size);
      int to = page;
      while (place >= size) place -= size, ++to;
      while (place < 0) place += size, --to;
      if (to != page) turn_to(to);
    }
    return static_cast<const uint8_t*>(view.data) + offset + place * view.position_stride;
  }
};

// A raw product as a score in units of log2; kNoScore where the query does not see the key.
struct Scoring {
  KeyRange seen;
  int position;
  float slope;  // times log2(e)

  __device__ __forceinline__ float operator()(const AttentionCall& call, float product,
                                              int key) const {
    float score = product * call.scale;
    if (call.softcap > 0) score = call.softcap * tanhf(score / call.softcap);
    score = fmaf(slope, static_cast<float>(key - position), score * kLog2e);
    return key >= seen.begin && key < seen.end ? score : kNoScore;
  }
};

__device__ __forceinline__ Scoring scoring_of(const AttentionCall& call, const AttentionPlan& plan,
                                              int length, int kv_head, int row) {
  const int query = row / plan.group, head = kv_head * plan.group + row % plan.group;
  const int position = length - static_cast<int>(call.queries) + query;
  return {visible_keys(call, length, position), position,
          call.alibi_slopes != nullptr ? call.alibi_slopes[head] * kLog2e : 0.0f};
}

// Factor of what was summed against an older maximum.
__device__ __forceinline__ float rescale(float older, float newer) {
  return older == kNoScore ? 0.0f : exp2f(older - newer);
}

// The row's softmax before any key: a sink is a key whose value is zero, and split 0 counts it.
__device__ __forceinline__ float2 first_stats(const AttentionCall& call, const AttentionPlan& plan,
                                              int kv_head, int row, int split) {
  if (call.sinks == nullptr || split != 0) return make_float2(kNoScore, 0.0f);
  return make_float2(call.sinks[kv_head * plan.group + row % plan.group] * kLog2e, 1.0f);
}

// Where a row of a block's result goes.
__device__ __forceinline__ int64_t partial_row(const AttentionCall& call, const AttentionPlan& plan,
                                               const Work& work, int row) {
  return ((int64_t{work.batch} * call.kv_heads + work.kv_head) * plan.rows + row) * plan.splits +
         work.split;
}
__device__ __forceinline__ int64_t output_row(const AttentionCall& call, const AttentionPlan& plan,
                                              int batch, int kv_head, int row) {
  return (batch * call.queries + row / plan.group) * call.heads + kv_head * plan.group +
         row % plan.group;
}
__device__ __forceinline__ int64_t query_offset(const AttentionCall& call,
                                                const AttentionPlan& plan, int batch, int kv_head,
                                                int row) {
  return batch * call.q_batch_stride + row / plan.group * call.q_token_stride +
         (kv_head * plan.group + row % plan.group) * call.q_head_stride;
}

// Whether every head starts at a multiple of `bytes`.
inline bool bytes_aligned(const CacheView& view, int64_t bytes) {
  const int64_t steps = static_cast<int64_t>(reinterpret_cast<uintptr_t>(view.data)) |
                        view.block_stride | view.position_stride | view.head_stride;
  return steps % bytes == 0;
}

// Whether N values of a head of `dims` values can be read at once, wherever they start.
template <class Format, int N>
bool heads_aligned(const CacheView& view, int64_t dims) {
  return dims % N == 0 && bytes_aligned(view, Format::template kAlign<N>);
}

inline unsigned grid_of(const AttentionCall& call, const AttentionPlan& plan) {
  return static_cast<unsigned>(call.batch * call.kv_heads * plan.tiles * plan.splits);
}

// Calls body(bucket) with the smallest size that kernels are made for and that holds a head.
template <typename Body>
void with_bucket(const AttentionCall& call, Body body) {
  const int64_t dims = call.head_dim > call.value_dim ? call.head_dim : call.value_dim;
  if (dims <= 64) return body(std::integral_constant<int, 64>{});
  if (dims <= 128) return body(std::integral_constant<int, 128>{});
  if (dims <= 192) return body(std::integral_constant<int, 192>{});
  return body(std::integral_constant<int, 256>{});
}

// Rows of a block that computes many, 16 to a wave; waves share out the dims of large heads.
constexpr int kTileRows = 64;
constexpr int tile_dim_parts(int bucket) { return bucket <= 128 ? 1 : 2; }
constexpr int tile_waves(int bucket) { return kTileRows / 16 * tile_dim_parts(bucket); }

// Float32 arithmetic on tiles of kExactRows rows: any call.
constexpr int kExactRows = 8, kExactKeys = 32;
void attention_exact(const AttentionCall& call, const AttentionPlan& plan, const Partials& partials,
                     Stream stream);

// Matrix units on tiles of 16 rows, one function for each format of both caches. Where values can
// be read transposed, eight are enough of a tile, and all that sums of large heads leave room for.
constexpr int kDecodeRows = 16, kFewDecodeRows = 8;
constexpr int kMostDimsOfManyRows = 128;
inline int decode_tile_rows(const AttentionCall& call) {
  const bool large = call.head_dim > kMostDimsOfManyRows || call.value_dim > kMostDimsOfManyRows;
  const bool few = call.queries * (call.heads / call.kv_heads) <= kFewDecodeRows;
  return kLoadsTransposed && (large || few) ? kFewDecodeRows : kDecodeRows;
}
void attention_decode_f16(const AttentionCall& call, const AttentionPlan& plan,
                          const Partials& partials, Stream stream);
void attention_decode_bf16(const AttentionCall& call, const AttentionPlan& plan,
                           const Partials& partials, Stream stream);
void attention_decode_e4m3(const AttentionCall& call, const AttentionPlan& plan,
                           const Partials& partials, Stream stream);
void attention_decode_e5m2(const AttentionCall& call, const AttentionPlan& plan,
                           const Partials& partials, Stream stream);
void attention_decode_q8_0(const AttentionCall& call, const AttentionPlan& plan,
                           const Partials& partials, Stream stream);
void attention_decode_q4_0(const AttentionCall& call, const AttentionPlan& plan,
                           const Partials& partials, Stream stream);

// Matrix units on tiles of kTileRows rows: both caches float16, or both bfloat16.
void attention_tile_f16(const AttentionCall& call, const AttentionPlan& plan,
                        const Partials& partials, Stream stream);
void attention_tile_bf16(const AttentionCall& call, const AttentionPlan& plan,
                         const Partials& partials, Stream stream);

}  // namespace rocmforge::gpu
