// Kernels of the unquantized ops: norms, rope, gated activations, cache writes, attention,
// sampling.
//
// A kernel runs on one thread over the range that it is given; its results do not depend on how the
// caller cut the ranges. Strides count elements; the last dimension is contiguous everywhere.
#pragma once

#include <cstdint>

#include "common/cache_type.h"
#include "cpu/kernels/dtype.h"

namespace rocmforge::cpu {

// Rows of a tensor: row i stands at (i / inner) * outer_stride + (i % inner) * inner_stride.
struct Rows {
  const void* data;
  int64_t inner;
  int64_t outer_stride;
  int64_t inner_stride;

  // Never a function of its own: see kernels.h.
  __attribute__((always_inline)) int64_t offset(int64_t row) const {
    return row / inner * outer_stride + row % inner * inner_stride;
  }
};

enum class Activation { kSilu, kGelu };

// Arguments of `rope`: tokens of `heads` rows of `head_dim` elements.
struct RopeArgs {
  DType dtype;
  Rows tokens;
  int64_t head_stride;
  int64_t heads;
  int64_t head_dim;
  const int64_t* positions;  // token i stands at positions[i % num_positions]
  int64_t num_positions;
  const float* inv_freq;  // [pairs]
  int64_t pairs;
  bool interleaved;
  float scale;
  void* out;  // contiguous
};

// Arguments of `attention`; see the op for their meaning. Strides of (batch or block, position,
// head) and of (batch, token, head), in elements of the tensor: bytes where it holds blocks.
struct AttentionArgs {
  DType q_dtype;
  CacheType k_type, v_type;
  const void *q, *k, *v;
  int64_t q_strides[3], k_strides[3], v_strides[3];
  int64_t num_queries, num_heads, num_kv_heads, head_dim, value_dim;
  const int32_t* seq_lens;
  const int32_t* block_table;  // null: sequence b is block b
  int64_t table_stride;
  int64_t block_size;
  float scale;
  bool causal;
  int64_t window;
  float softcap;
  const float* sinks;
  const float* alibi_slopes;
  void* out;  // contiguous [B, T, Hq, Dv]
};

// The part of the attention that one call computes: `queries` tokens of all query heads that share
// a key head, over the keys [key_begin, key_end).
struct AttentionTile {
  int64_t batch;
  int64_t kv_head;
  int64_t first_query;
  int64_t queries;
  int64_t key_begin;
  int64_t key_end;
};

struct GlueKernels {
  // Rows [begin, end) of out = x / sqrt(mean(x^2) + eps) * weight, x contiguous in out's order.
  // With `residual`, x + residual takes the place of x and is also written to `sum`; with
  // `x_weight` too, x is normed by that before it is added. Weights are null or [width].
  void (*rms_norm)(DType dtype, const Rows& x, const Rows* residual, DType weight_dtype,
                   const void* weight, const void* x_weight, float eps, void* out, void* sum,
                   int64_t width, int64_t begin, int64_t end);

  // Tokens [begin, end); scratch holds 2 * (pairs + 8) floats.
  void (*rope)(const RopeArgs& args, int64_t begin, int64_t end, float* scratch);

  // Columns [0, width) of rows [begin, end) of out = activation(gate) * up.
  void (*gated)(DType dtype, Activation activation, const Rows& gate, const Rows& up, void* out,
                int64_t width, int64_t begin, int64_t end);

  // dst[i] += src[i]
  void (*accumulate)(DType dtype, const void* src, void* dst, int64_t count);

  // dst[i] = src[i], converted; `to` is a type without blocks.
  void (*convert)(DType from, const void* src, CacheType to, void* dst, int64_t count);

  // Floats of scratch that a tile of `rows` query rows (queries times heads per key head) needs.
  int64_t (*attention_scratch)(const AttentionArgs& args, int64_t rows);
  // With `partial` null the result goes to args.out. Otherwise a row's (maximum, denominator,
  // value_dim numerators) goes to partial, rows in the order (query, head of the group).
  void (*attention)(const AttentionArgs& args, const AttentionTile& tile, float* scratch,
                    float* partial);
  // Joins `splits` partial results of the same tile, `stride` floats apart, and writes args.out.
  void (*attention_join)(const AttentionArgs& args, const AttentionTile& tile, float* partial,
                         int64_t splits, int64_t stride);

  // The largest of the values, NaN passed over; -infinity if there is none.
  float (*maximum)(const float* values, int64_t count);
  // weights[i] = exp(values[i] - maximum), in float64; NaN gives 0.
  void (*softmax_weights)(const float* values, float maximum, double* weights, int64_t count);
  // The index i < count with the largest values[i] / temperature + gumbel(seed, step, ids[i]);
  // null ids stand for i itself.
  int64_t (*gumbel_argmax)(const float* values, const int64_t* ids, int64_t count,
                           double temperature, uint64_t seed, uint64_t step);
};

}  // namespace rocmforge::cpu
