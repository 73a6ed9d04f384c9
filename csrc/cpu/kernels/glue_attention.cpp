// Attention with an online softmax: keys are visited in blocks, and per query row the running
// maximum, denominator and numerators are kept (Milakov and Gimelshein, 2018; Dao et al., 2022).
#include "cpu/kernels/attention_tiles.h"
#include "cpu/kernels/float8.h"
#include "cpu/kernels/glue_functions.h"
#include "cpu/kernels/glue_math.h"
#include "cpu/kernels/kernels.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

constexpr int64_t kKeyBlock = 64;
constexpr float kMinusInfinity = -__builtin_inff();

int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

// The scratch of a tile, and what is fixed while it is computed.
struct State {
  int64_t rows, group, k_width, v_width;
  float *q, *k, *v, *scores, *out, *maximum, *denominator;

  State(const AttentionArgs& args, int64_t rows, float* scratch)
      : rows(rows),
        group(args.num_heads / args.num_kv_heads),
        k_width(padded(args.head_dim)),
        v_width(padded(args.value_dim)) {
    const auto take = [&](int64_t floats) {
      float* start = scratch;
      scratch += floats;
      return start;
    };
    q = take(rows * k_width);
    k = take(kKeyBlock * k_width);
    v = take(kKeyBlock * v_width);
    scores = take(rows * kKeyBlock);
    out = take(rows * v_width);
    maximum = take(rows);
    denominator = take(rows);
  }
};

// `width` elements as float32, padded with zeros to whole vectors.
template <typename T>
RF_INLINE void load_row(const T* in, int64_t width, float* out) {
  int64_t i = 0;
  for (; i + kLanes <= width; i += kLanes) store(out + i, load_floats(in + i));
  if (i < width) store(out + i, load_floats(in + i, width - i));
}

void load_queries(const AttentionArgs& args, const AttentionTile& tile, const State& state) {
  const int64_t first_head = tile.kv_head * state.group;
  with_element(args.q_dtype, [&](auto element) {
    using T = decltype(element);
    for (int64_t row = 0; row < state.rows; ++row) {
      const int64_t token = tile.first_query + row / state.group;
      const int64_t head = first_head + row % state.group;
      const T* in = static_cast<const T*>(args.q) + tile.batch * args.q_strides[0] +
                    token * args.q_strides[1] + head * args.q_strides[2];
      load_row(in, args.head_dim, state.q + row * state.k_width);
    }
  });
}

void start_rows(const AttentionArgs& args, const AttentionTile& tile, const State& state) {
  __builtin_memset(state.out, 0, state.rows * state.v_width * sizeof(float));
  for (int64_t row = 0; row < state.rows; ++row) {
    // A sink is a key that is always visible and whose value is zero. Only one part counts it.
    const bool sink = args.sinks && tile.key_begin == 0;
    const int64_t head = tile.kv_head * state.group + row % state.group;
    state.maximum[row] = sink ? args.sinks[head] : kMinusInfinity;
    state.denominator[row] = sink ? 1.0f : 0.0f;
  }
}

// Keys or values as they are stored, and as float32 rows.
struct Cache {
  CacheType type;
  const void* data;
  const int64_t (&strides)[3];
  int64_t width;
  float* out;
  int64_t out_width;
};

// Calls f(row, out) with positions [begin, begin + count).
template <typename T, typename F>
RF_INLINE void for_positions(const AttentionArgs& args, const AttentionTile& tile,
                             const Cache& cache, int64_t begin, int64_t count, F f) {
  const T* head = static_cast<const T*>(cache.data) + tile.kv_head * cache.strides[2];
  for (int64_t i = 0; i < count; ++i) {
    int64_t block = tile.batch, position = begin + i;
    if (args.block_table) {
      block = args.block_table[tile.batch * args.table_stride + position / args.block_size];
      position %= args.block_size;
    }
    f(head + block * cache.strides[0] + position * cache.strides[1],
      cache.out + i * cache.out_width);
  }
}

// GGML's number of a type of blocks, -1 of another.
int blocks_type(CacheType type) {
  switch (type) {
    case CacheType::kQ8_0:
      return 8;
    case CacheType::kQ4_0:
      return 2;
    default:
      return -1;
  }
}

void load_cache(const AttentionArgs& args, const AttentionTile& tile, const Cache& cache,
                int64_t begin, int64_t count) {
  if (const QuantTypeKernels* blocks = kQuant.find(blocks_type(cache.type))) {
    const int64_t num_blocks = cache.width / blocks->block_size;
    for_positions<uint8_t>(args, tile, cache, begin, count,
                           [&](const uint8_t* row, float* out)
                               RF_INLINE_LAMBDA { blocks->dequantize(row, num_blocks, out); });
    return;
  }
  with_plain_cache(cache.type, [&](auto element) {
    using T = decltype(element);
    for_positions<T>(args, tile, cache, begin, count,
                     [&](const T* row, float* out)
                         RF_INLINE_LAMBDA { load_row(row, cache.width, out); });
  });
}

struct Range {
  int64_t begin, end;
};

// The keys that a query sees. They are always neighbours.
Range visible(const AttentionArgs& args, const AttentionTile& tile, int64_t query) {
  const int64_t length = args.seq_lens[tile.batch];
  const int64_t position = length - args.num_queries + query;
  int64_t begin = 0, end = args.causal ? position + 1 : length;
  if (args.window > 0 && position - args.window + 1 > 0) begin = position - args.window + 1;
  begin = begin > tile.key_begin ? begin : tile.key_begin;
  end = end < tile.key_end ? end : tile.key_end;
  return {begin, end > begin ? end : begin};
}

// Raw products to softmax weights against the running maximum, for one row and one block of keys.
void softmax_row(const AttentionArgs& args, const AttentionTile& tile, const State& state,
                 int64_t row, int64_t block_begin, Range seen) {
  float* scores = state.scores + row * kKeyBlock;
  const int64_t first = seen.begin - block_begin, last = seen.end - block_begin;
  const int64_t head = tile.kv_head * state.group + row % state.group;
  const float slope = args.alibi_slopes ? args.alibi_slopes[head] : 0.0f;
  const int64_t query = tile.first_query + row / state.group;
  const int64_t position = args.seq_lens[tile.batch] - args.num_queries + query;

  i32xW lane;
  for (int i = 0; i < kLanes; ++i) lane[i] = i;
  f32xW largest = splat<f32xW>(kMinusInfinity);
  for (int64_t i = 0; i < kKeyBlock; i += kLanes) {
    f32xW s = load<f32xW>(scores + i) * args.scale;
    if (args.softcap > 0) s = args.softcap * tanh(s / args.softcap);
    const i32xW key = lane + static_cast<int32_t>(i);
    if (slope != 0) {
      const i32xW distance = key + static_cast<int32_t>(block_begin - position);
      s += slope * __builtin_convertvector(distance, f32xW);
    }
    const i32xW shown = (key >= static_cast<int32_t>(first)) & (key < static_cast<int32_t>(last));
    s = shown ? s : splat<f32xW>(kMinusInfinity);
    store(scores + i, s);
    largest = s > largest ? s : largest;
  }
  float maximum = state.maximum[row];
  for (int i = 0; i < kLanes; ++i) maximum = largest[i] > maximum ? largest[i] : maximum;

  // Where nothing was visible so far, all scores are -infinity and any maximum gives zeros.
  const float base = maximum == kMinusInfinity ? 0.0f : maximum;
  f32xW total = {};
  for (int64_t i = 0; i < kKeyBlock; i += kLanes) {
    const f32xW weight = exp(load<f32xW>(scores + i) - base);
    store(scores + i, weight);
    total += weight;
  }
  if (maximum > state.maximum[row]) {
    const float factor = exp(splat<f32xW>(state.maximum[row] - base))[0];
    state.denominator[row] *= factor;
    float* out = state.out + row * state.v_width;
    for (int64_t i = 0; i < state.v_width; i += kLanes) {
      store(out + i, load<f32xW>(out + i) * factor);
    }
    state.maximum[row] = maximum;
  }
  state.denominator[row] += sum(total);
}

void visit_block(const AttentionArgs& args, const AttentionTile& tile, const State& state,
                 int64_t begin, int64_t count) {
  const Cache keys = {args.k_type, args.k, args.k_strides, args.head_dim, state.k, state.k_width};
  const Cache values = {args.v_type,    args.v,  args.v_strides,
                        args.value_dim, state.v, state.v_width};
  load_cache(args, tile, keys, begin, count);
  load_cache(args, tile, values, begin, count);
  products(state.q, state.rows, state.k, count, state.k_width, state.scores, kKeyBlock);
  for (int64_t row = 0; row < state.rows; ++row) {
    Range seen = visible(args, tile, tile.first_query + row / state.group);
    seen.begin = seen.begin > begin ? seen.begin : begin;
    seen.end = seen.end < begin + count ? seen.end : begin + count;
    if (seen.begin < seen.end) {
      softmax_row(args, tile, state, row, begin, seen);
    } else {
      __builtin_memset(state.scores + row * kKeyBlock, 0, kKeyBlock * sizeof(float));
    }
  }
  add_weighted(state.scores, kKeyBlock, state.rows, state.v, count, state.v_width, state.out);
}

// numerators / denominator of one row into the output tensor; rows with nothing visible are zero.
void write_row(const AttentionArgs& args, const AttentionTile& tile, int64_t row,
               const float* numerators, float denominator) {
  const int64_t group = args.num_heads / args.num_kv_heads;
  const int64_t token = tile.batch * args.num_queries + tile.first_query + row / group;
  const int64_t head = tile.kv_head * group + row % group;
  const float factor = denominator > 0 ? 1.0f / denominator : denominator;
  with_element(args.q_dtype, [&](auto element) {
    using T = decltype(element);
    T* out = static_cast<T*>(args.out) + (token * args.num_heads + head) * args.value_dim;
    int64_t i = 0;
    for (; i + kLanes <= args.value_dim; i += kLanes) {
      store_floats(out + i, load<f32xW>(numerators + i) * factor);
    }
    if (i < args.value_dim) {
      const int64_t left = args.value_dim - i;
      store_floats(out + i, load_floats(numerators + i, left) * factor, left);
    }
  });
}

}  // namespace

int64_t attention_scratch(const AttentionArgs& args, int64_t rows) {
  const int64_t widths = padded(args.head_dim) + padded(args.value_dim);
  return (rows + kKeyBlock) * widths + rows * (kKeyBlock + 2);
}

void attention(const AttentionArgs& args, const AttentionTile& tile, float* scratch,
               float* partial) {
  const State state(args, tile.queries * (args.num_heads / args.num_kv_heads), scratch);
  load_queries(args, tile, state);
  start_rows(args, tile, state);
  const int64_t begin = visible(args, tile, tile.first_query).begin;
  const int64_t end = visible(args, tile, tile.first_query + tile.queries - 1).end;
  for (int64_t key = begin; key < end; key += kKeyBlock) {
    visit_block(args, tile, state, key, end - key < kKeyBlock ? end - key : kKeyBlock);
  }
  for (int64_t row = 0; row < state.rows; ++row) {
    const float* numerators = state.out + row * state.v_width;
    if (partial) {
      *partial++ = state.maximum[row];
      *partial++ = state.denominator[row];
      for (int64_t i = 0; i < args.value_dim; ++i) *partial++ = numerators[i];
    } else {
      write_row(args, tile, row, numerators, state.denominator[row]);
    }
  }
}

void attention_join(const AttentionArgs& args, const AttentionTile& tile, float* partial,
                    int64_t splits, int64_t stride) {
  const int64_t row_size = args.value_dim + 2;
  const int64_t rows = tile.queries * (args.num_heads / args.num_kv_heads);
  for (int64_t row = 0; row < rows; ++row, partial += row_size) {
    float maximum = kMinusInfinity;
    for (int64_t i = 0; i < splits; ++i) {
      const float other = partial[i * stride];
      maximum = other > maximum ? other : maximum;
    }
    // The first part becomes the sum of all.
    float denominator = 0.0f;
    float* numerators = partial + 2;
    for (int64_t i = 0; i < splits; ++i) {
      const float* part = partial + i * stride;
      const float base = maximum == kMinusInfinity ? 0.0f : maximum;
      const float factor = exp(splat<f32xW>(part[0] - base))[0];
      denominator += factor * part[1];
      for (int64_t j = 0; j < args.value_dim; ++j) {
        numerators[j] = (i ? numerators[j] : 0.0f) + factor * part[2 + j];
      }
    }
    write_row(args, tile, row, numerators, denominator);
  }
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
