// Attention in float32 arithmetic: for float32 queries or caches, for layouts that wide loads
// cannot read, and where exact results are asked for.
#include "hip/attention_work.h"
#include "hip/cache_formats.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kRows = kExactRows, kKeys = kExactKeys;
constexpr int kMaxDim = static_cast<int>(kMaxHeadDim);
constexpr int kStride = kMaxDim + 4;  // neighbouring keys lie in other banks
static_assert(kRows * kKeys == kThreads, "a thread has one score of a tile");
constexpr int kColumns = 4;                                         // of a thread's outputs
constexpr int kMaxOutputs = kRows * kMaxDim / kThreads / kColumns;  // rows of them

struct Tile {
  float queries[kRows * kMaxDim];
  float keys[kKeys * kStride];  // or values
  float weights[kRows * kKeys];
  float factors[kRows];
};

// Which of the caches can be read eight values at a time.
struct Wide {
  bool k, v;
};

// Keys or values [first, first + kKeys) of a head as float32, zeros from `end` on.
__device__ __forceinline__ void load_tile(const AttentionCall& call, const CacheView& view,
                                          const Work& work, int first, int end, int dims, bool wide,
                                          float* tile) {
  constexpr int kStep = 8;
  const int steps = (dims + kStep - 1) / kStep;
  for (int i = threadIdx.x; i < kKeys * steps; i += kThreads) {
    const int key = i / steps, dim = i % steps * kStep;
    float values[kStep] = {};
    if (first + key < end) {
      const uint8_t* row = cache_row(call, view, work.batch, work.kv_head, first + key);
      with_cache_format(view.type, [&](auto format) {
        using Format = decltype(format);
        if (wide) {
          load_floats<Format>(row, dim, values);
        } else {
#pragma unroll
          for (int j = 0; j < kStep; ++j) {
            if (dim + j < dims) values[j] = Format::value(row, dim + j);
          }
        }
      });
    }
#pragma unroll
    for (int j = 0; j < kStep; ++j) tile[key * kStride + dim + j] = values[j];
  }
}

__global__ void __launch_bounds__(kThreads)
    attention_exact_kernel(AttentionCall call, AttentionPlan plan, Partials partials, Wide wide) {
  __shared__ Tile tile;
  const Work work = work_of(call, plan, blockIdx.x);
  const int first_row = work.tile * kRows;
  const int rows = plan.rows - first_row < kRows ? plan.rows - first_row : kRows;
  const int head_dim = static_cast<int>(call.head_dim), dims = static_cast<int>(call.value_dim);
  const int length = sequence_length(call, work.batch);
  const KeyRange range = split_keys(
      tile_keys(call, length, first_row / plan.group, (first_row + rows - 1) / plan.group),
      work.split, plan.splits, kKeys);

  const int padded = (head_dim + 3) / 4 * 4;
  for (int i = threadIdx.x; i < kRows * padded; i += kThreads) {
    const int row = i / padded, dim = i % padded;
    tile.queries[row * kMaxDim + dim] =
        row < rows && dim < head_dim
            ? load_as(call.dtype, call.q,
                      query_offset(call, plan, work.batch, work.kv_head, first_row + row) + dim)
            : 0.0f;
  }

  // Scores: a row's keys are 32 neighbouring lanes, which keep its statistics.
  const int row = threadIdx.x / kKeys, key = threadIdx.x % kKeys;
  const int known_row = first_row + (row < rows ? row : 0);
  const Scoring scoring = scoring_of(call, plan, length, work.kv_head, known_row);
  float2 stats = first_stats(call, plan, work.kv_head, known_row, work.split);

  // Outputs: columns of four, rows apart by the number of threads that a row leaves over.
  int threads = 1;
  while (threads * kColumns < dims) threads *= 2;
  const int column = threadIdx.x % threads * kColumns;
  const int first_output = threadIdx.x / threads, output_step = kThreads / threads;
  float sums[kMaxOutputs][kColumns] = {};

  for (int first = range.begin; first < range.end; first += kKeys) {
    __syncthreads();
    load_tile(call, call.k, work, first, range.end, head_dim, wide.k, tile.keys);
    __syncthreads();
    float product = 0.0f;
    for (int d = 0; d < padded; d += 4) {
      const float4 a = *reinterpret_cast<const float4*>(&tile.queries[row * kMaxDim + d]);
      const float4 b = *reinterpret_cast<const float4*>(&tile.keys[key * kStride + d]);
      product = fmaf(a.x, b.x, fmaf(a.y, b.y, fmaf(a.z, b.z, fmaf(a.w, b.w, product))));
    }
    const bool inside = first + key < range.end;
    const float score = inside ? scoring(call, product, first + key) : kNoScore;
    float largest = score;
#pragma unroll
    for (int mask = kKeys / 2; mask > 0; mask /= 2) {
      largest = fmaxf(largest, wave_shuffle_xor(largest, mask));
    }
    largest = fmaxf(largest, stats.x);
    const float weight = score == kNoScore ? 0.0f : exp2f(score - largest);
    float sum = weight;
#pragma unroll
    for (int mask = kKeys / 2; mask > 0; mask /= 2) sum += wave_shuffle_xor(sum, mask);
    const float factor = rescale(stats.x, largest);
    stats = make_float2(largest, stats.y * factor + sum);
    tile.weights[row * kKeys + key] = weight;
    if (key == 0) tile.factors[row] = factor;

    __syncthreads();
    load_tile(call, call.v, work, first, range.end, dims, wide.v, tile.keys);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kMaxOutputs; ++i) {
      const int output = first_output + i * output_step;
      if (output >= rows) continue;
#pragma unroll
      for (int c = 0; c < kColumns; ++c) sums[i][c] *= tile.factors[output];
      for (int s = 0; s < kKeys; ++s) {
        const float p = tile.weights[output * kKeys + s];
        const float4 v = *reinterpret_cast<const float4*>(&tile.keys[s * kStride + column]);
        sums[i][0] = fmaf(p, v.x, sums[i][0]);
        sums[i][1] = fmaf(p, v.y, sums[i][1]);
        sums[i][2] = fmaf(p, v.z, sums[i][2]);
        sums[i][3] = fmaf(p, v.w, sums[i][3]);
      }
    }
  }

  __syncthreads();  // the last factors have been read
  if (plan.splits > 1) {
    if (key == 0 && row < rows) {
      partials.stats[partial_row(call, plan, work, first_row + row)] = stats;
    }
  } else if (key == 0) {
    tile.factors[row] = stats.y == 0.0f ? 0.0f : 1.0f / stats.y;
  }
  __syncthreads();
#pragma unroll
  for (int i = 0; i < kMaxOutputs; ++i) {
    const int output = first_output + i * output_step;
    if (output >= rows) continue;
    const int64_t to = plan.splits > 1
                           ? partial_row(call, plan, work, first_row + output)
                           : output_row(call, plan, work.batch, work.kv_head, first_row + output);
#pragma unroll
    for (int c = 0; c < kColumns; ++c) {
      if (column + c >= dims) continue;
      if (plan.splits > 1) {
        partials.values[to * dims + column + c] = sums[i][c];
      } else {
        store_as(call.dtype, call.out, to * dims + column + c, sums[i][c] * tile.factors[output]);
      }
    }
  }
}

}  // namespace

void attention_exact(const AttentionCall& call, const AttentionPlan& plan, const Partials& partials,
                     Stream stream) {
  Wide wide = {};
  with_cache_format(call.k.type, [&](auto format) {
    wide.k = heads_aligned<decltype(format), 8>(call.k, call.head_dim);
  });
  with_cache_format(call.v.type, [&](auto format) {
    wide.v = heads_aligned<decltype(format), 8>(call.v, call.value_dim);
  });
  attention_exact_kernel<<<grid_of(call, plan), kThreads, 0, static_cast<gpuStream_t>(stream)>>>(
      call, plan, partials, wide);
}

}  // namespace rocmforge::gpu
