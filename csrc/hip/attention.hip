// Chooses how a call is cut and computed, and merges the splits of a sequence.
#include <algorithm>

#include "hip/attention_parts.h"
#include "hip/attention_work.h"
#include "hip/chunks.h"
#include "hip/dispatch.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {
namespace {

constexpr int kMergeThreads = 512, kMergeBlocksPerUnit = 2;
constexpr int64_t kMostSplits = 256;
constexpr int64_t kBlocksPerUnit = 3;   // that a compute unit runs at a time
constexpr int64_t kKeysPerSplit = 128;  // fewer are not worth a block
constexpr int kWholeKeys = 257;         // fewer are done before a merge would be

// Merges the splits of a row, by all threads of a block. Threads that have the same dim share out
// the splits; what they add up, and in which order, is fixed.
__device__ __forceinline__ void merge_row(const AttentionCall& call, const AttentionPlan& plan,
                                          const Partials& partials, int pair, int row) {
  __shared__ float2 stats[kMostSplits];
  __shared__ float factors[kMostSplits], sums[kMergeThreads];
  const int dims = static_cast<int>(call.value_dim), splits = plan.splits;
  const int64_t first = (int64_t{pair} * plan.rows + row) * splits;
  __syncthreads();  // nobody is at the row before
  for (int s = threadIdx.x; s < splits; s += kMergeThreads) stats[s] = partials.stats[first + s];
  __syncthreads();
  float largest = kNoScore;
  for (int s = 0; s < splits; ++s) largest = fmaxf(largest, stats[s].x);
  for (int s = threadIdx.x; s < splits; s += kMergeThreads) {
    factors[s] = rescale(stats[s].x, largest);
  }
  __syncthreads();

  int columns = 1;
  while (columns < dims) columns *= 2;
  const int parts = kMergeThreads / columns;
  const int dim = threadIdx.x % columns, part = threadIdx.x / columns;
  float sum = 0.0f;
  if (dim < dims) {
#pragma unroll 8
    for (int s = part; s < splits; s += parts) {
      sum = fmaf(partials.values[(first + s) * dims + dim], factors[s], sum);
    }
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (part != 0 || dim >= dims) return;
  float total = 0.0f;
  for (int s = 0; s < splits; ++s) total += stats[s].y * factors[s];
  float value = 0.0f;
  for (int p = 0; p < parts; ++p) value += sums[p * columns + dim];
  const auto kv_heads = static_cast<int>(call.kv_heads);
  const int64_t to = output_row(call, plan, pair / kv_heads, pair % kv_heads, row);
  store_as(call.dtype, call.out, to * dims + dim, total == 0.0f ? 0.0f : value / total);
}

// A block has some neighbours of one tile, and mostly nothing to do.
__global__ void __launch_bounds__(kMergeThreads)
    attention_merge_kernel(AttentionCall call, AttentionPlan plan, Partials partials,
                           int block_rows) {
  // What comes next has time to load its weights.
  if (call.at_rest) {
    let_next_begin();
  } else {
    follow_previous();
  }
  const int blocks = (plan.rows + block_rows - 1) / block_rows;  // of a pair
  const int pair = static_cast<int>(blockIdx.x) / blocks;
  const int row = static_cast<int>(blockIdx.x) % blocks * block_rows;
  const int length = sequence_length(call, pair / static_cast<int>(call.kv_heads));
  const KeyRange keys = keys_of_tile(call, plan, length, row / plan.tile_rows);
  const bool merged = splits_of(plan, keys) == 1;
  if (call.at_rest) follow_previous();  // also where nothing is done: those behind wait for all
  if (merged) return;
  const int end = row + block_rows < plan.rows ? row + block_rows : plan.rows;
  for (int r = row; r < end; ++r) merge_row(call, plan, partials, pair, r);
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Rows of a tile for a block of the merge: more than one where all blocks would not be there at
// once.
int merged_rows(const AttentionPlan& plan, int64_t pairs) {
  const int64_t at_once = int64_t{kMergeBlocksPerUnit} * device_compute_units();
  int rows = 1;
  while (plan.tile_rows % (2 * rows) == 0 && pairs * ceil_div(plan.rows, rows) > at_once) rows *= 2;
  return rows;
}

// What multiplies.
enum class Method { kExact, kDecode, kTile };

// Whether matrix units can: heads of whole loads, 16 bytes of float16 or one of quantized values.
bool fits_matrix_units(const AttentionCall& call) {
  const int64_t q_steps = call.q_batch_stride | call.q_token_stride | call.q_head_stride;
  bool fits = call.dtype != DType::kFloat32 && call.head_dim % 8 == 0 && call.head_dim >= 16 &&
              call.value_dim % 8 == 0 && q_steps % 8 == 0 && is_aligned(call.q);
  for (const CacheView* view : {&call.k, &call.v}) {
    const int64_t dims = view == &call.k ? call.head_dim : call.value_dim;
    with_cache_format(view->type, [&](auto format) {
      using Format = decltype(format);
      constexpr int kWhole = Format::kBytes == 1 ? 16 : 8;
      fits = fits && Format::kType != CacheType::kFloat32 && dims % kWhole == 0 &&
             bytes_aligned(*view, Format::template kAlign<16>);
    });
  }
  return fits;
}

constexpr int64_t kMostDecodeRows = 2 * kDecodeRows;

Method method_of(const AttentionCall& call) {
  if (call.exact || !fits_matrix_units(call)) return Method::kExact;
  const int64_t rows = call.queries * (call.heads / call.kv_heads);
  return call.k.type == call.v.type && rows <= kMostDecodeRows ? Method::kDecode : Method::kTile;
}

int tile_rows(Method method, const AttentionCall& call) {
  switch (method) {
    case Method::kExact:
      return kExactRows;
    case Method::kDecode:
      return decode_tile_rows(call);
    case Method::kTile:
      return kTileRows;
  }
  return 1;
}

// How a call is computed: one plan for all of its parts.
struct Course {
  Method method;
  AttentionParts parts;
  AttentionPlan plan;
  int64_t unpacked_bytes, partial_rows;  // of the workspace
};

Course course_of(const AttentionCall& call) {
  Course course = {};
  course.method = method_of(call);
  course.parts = parts_of(call, course.method == Method::kTile);
  const int64_t pairs = course.parts.batches * course.parts.kv_heads;
  course.unpacked_bytes = course.parts.unpacks ? pairs * unpacked_head_bytes(call) : 0;

  AttentionPlan& plan = course.plan;
  plan.group = static_cast<int>(call.heads / call.kv_heads);
  plan.rows = static_cast<int>(call.queries) * plan.group;
  plan.tile_rows = tile_rows(course.method, call);
  plan.tiles = static_cast<int>(ceil_div(plan.rows, plan.tile_rows));
  plan.whole_keys = course.method == Method::kExact ? 0 : kWholeKeys;
  const int64_t blocks = std::max<int64_t>(pairs * plan.tiles, 1);
  const int64_t wanted = kBlocksPerUnit * device_compute_units() / blocks;
  const int64_t most = std::min(kMostSplits, ceil_div(room_of(call), kKeysPerSplit));
  plan.splits = static_cast<int>(std::max<int64_t>(1, std::min(wanted, most)));
  course.partial_rows = plan.splits > 1 ? pairs * plan.rows * plan.splits : 0;
  return course;
}

void decode(const AttentionCall& call, const AttentionPlan& plan, const Partials& partials,
            Stream stream) {
  switch (call.k.type) {
    case CacheType::kFloat32:
      return;  // not for matrix units
    case CacheType::kFloat16:
      return attention_decode_f16(call, plan, partials, stream);
    case CacheType::kBFloat16:
      return attention_decode_bf16(call, plan, partials, stream);
    case CacheType::kE4M3:
      return attention_decode_e4m3(call, plan, partials, stream);
    case CacheType::kE5M2:
      return attention_decode_e5m2(call, plan, partials, stream);
    case CacheType::kQ8_0:
      return attention_decode_q8_0(call, plan, partials, stream);
    case CacheType::kQ4_0:
      return attention_decode_q4_0(call, plan, partials, stream);
  }
}

void tiles(const AttentionCall& call, const AttentionPlan& plan, const Partials& partials,
           Stream stream) {
  if (call.k.type == CacheType::kBFloat16) {
    attention_tile_bf16(call, plan, partials, stream);
  } else {
    attention_tile_f16(call, plan, partials, stream);
  }
}

void launch(Method method, const AttentionCall& call, const AttentionPlan& plan,
            const Partials& partials, Stream stream) {
  switch (method) {
    case Method::kExact:
      return attention_exact(call, plan, partials, stream);
    case Method::kDecode:
      return decode(call, plan, partials, stream);
    case Method::kTile:
      return tiles(call, plan, partials, stream);
  }
}

}  // namespace

// The workspace: unpacked caches, statistics, weighted values. Unpacked heads are whole 16 bytes,
// statistics 8.
int64_t attention_workspace_bytes(const AttentionCall* call) {
  const Course course = course_of(*call);
  return course.unpacked_bytes +
         course.partial_rows *
             static_cast<int64_t>(sizeof(float2) + call->value_dim * sizeof(float));
}

Status attention(const AttentionCall* call, void* workspace, Stream stream) {
  if (call->batch * call->queries * call->heads * call->value_dim == 0) return nullptr;
  const Course course = course_of(*call);
  const AttentionPlan& plan = course.plan;
  auto* stats = reinterpret_cast<float2*>(static_cast<uint8_t*>(workspace) + course.unpacked_bytes);
  const Partials partials = {reinterpret_cast<float*>(stats + course.partial_rows), stats};
  for (int64_t batch = 0; batch < call->batch; batch += course.parts.batches) {
    for (int64_t head = 0; head < call->kv_heads; head += course.parts.kv_heads) {
      AttentionCall part = *call;
      if (course.parts.unpacks) {
        part = part_of(*call, course.parts, batch, head);
        part = unpack_caches(part, course.parts.unpacked, workspace, stream);
      }
      launch(course.method, part, plan, partials, stream);
      if (plan.splits == 1) continue;
      const int64_t pairs = part.batch * part.kv_heads;
      const int rows = merged_rows(plan, pairs);
      launch_early(attention_merge_kernel, static_cast<unsigned>(pairs * ceil_div(plan.rows, rows)),
                   kMergeThreads, 0, static_cast<gpuStream_t>(stream), part, plan, partials, rows);
    }
  }
  return launch_status();
}

}  // namespace rocmforge::gpu
