// Writes the keys and values that any query sees as float16 or bfloat16, [batch, kv_heads, room,
// dims]: pages become neighbours.
#include <algorithm>

#include "hip/attention_parts.h"
#include "hip/attention_work.h"
#include "hip/cache_formats.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kAtOnce = 4;  // pieces of a thread that are under way
constexpr int64_t kBlocksPerUnit = 8;
constexpr int kGranule = 64;  // the tile kernel begins at a multiple of as many keys, or fewer

// A block's share of the keys or values of one head. Neighbouring threads have neighbouring pieces.
template <typename T, class Format>
__device__ __forceinline__ void unpack_rows(const AttentionCall& call, const CacheView& view,
                                            const Work& work, KeyRange range, int dims, int parts,
                                            T* to) {
  constexpr int kWidth = Format::kBlock == 1 && Format::kBytes > 1 ? 8 : 16;
  constexpr int kRaw = Format::template kRawWords<kWidth>;
  const int pieces = dims / kWidth, rows = kThreads / pieces;
  const int row = static_cast<int>(threadIdx.x) / pieces;
  const int dim = static_cast<int>(threadIdx.x) % pieces * kWidth;
  if (row >= rows) return;
  const int step = rows * kAtOnce;
  for (int64_t first = range.begin + int64_t{work.split} * step; first < range.end;
       first += int64_t{parts} * step) {
    uint32_t raw[kAtOnce][kRaw];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t key = first + i * rows + row;
      const auto there = static_cast<int>(key < range.end ? key : range.end - 1);
      Format::template fetch<kWidth>(cache_row(call, view, work.batch, work.kv_head, there), dim,
                                     raw[i]);
    }
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const int64_t key = first + i * rows + row;
      if (key >= range.end) break;
      uint32_t pairs[kWidth / 2];
      Format::template pairs<T, kWidth>(raw[i], dim, pairs);
      auto* out = reinterpret_cast<uint4*>(to + key * dims + dim);
#pragma unroll
      for (int w = 0; w < kWidth / 8; ++w) {
        out[w] = make_uint4(pairs[4 * w], pairs[4 * w + 1], pairs[4 * w + 2], pairs[4 * w + 3]);
      }
    }
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    attention_unpack_kernel(AttentionCall call, int parts, T* keys, T* values) {
  follow_previous();
  const auto part = static_cast<int>(blockIdx.x % parts);
  const unsigned index = blockIdx.x / parts, pair = index / 2;
  const bool is_key = index % 2 == 0;
  const auto kv_heads = static_cast<unsigned>(call.kv_heads);
  const Work work = {static_cast<int>(pair / kv_heads), static_cast<int>(pair % kv_heads), 0, part};
  KeyRange range =
      tile_keys(call, sequence_length(call, work.batch), 0, static_cast<int>(call.queries) - 1);
  range.begin -= range.begin % kGranule;
  // Field by field: a pointer to either would hide from AMD's compiler that data is global memory.
  const CacheView& k = call.k;
  const CacheView& v = call.v;
  const CacheView view = {
      is_key ? k.type : v.type, is_key ? k.data : v.data, is_key ? k.block_stride : v.block_stride,
      is_key ? k.position_stride : v.position_stride, is_key ? k.head_stride : v.head_stride};
  const auto dims = static_cast<int>(is_key ? call.head_dim : call.value_dim);
  const int64_t room = call.blocks_per_sequence * call.block_size;
  T* const to = (is_key ? keys : values) + pair * room * dims;
  with_cache_format(view.type, [&](auto format) {
    using Format = decltype(format);
    if constexpr (Format::kType != CacheType::kFloat32) {  // not for matrix units
      unpack_rows<T, Format>(call, view, work, range, dims, parts, to);
    }
  });
}

template <typename T>
void launch_unpack(const AttentionCall& call, T* keys, T* values, Stream stream) {
  const int64_t heads = 2 * call.batch * call.kv_heads;
  const int64_t step = kThreads * 8 * kAtOnce / std::min(call.head_dim, call.value_dim);
  const int64_t most = (room_of(call) + step - 1) / step;
  const int64_t wanted = std::max<int64_t>(1, kBlocksPerUnit * device_compute_units() / heads);
  const auto parts = static_cast<int>(std::min(most, wanted));
  launch_early(attention_unpack_kernel<T>, static_cast<unsigned>(heads * parts), kThreads, 0,
               static_cast<gpuStream_t>(stream), call, parts, keys, values);
}

}  // namespace

AttentionCall unpack_caches(const AttentionCall& part, CacheType to, void* scratch, Stream stream) {
  const int64_t room = room_of(part);
  auto* const keys = static_cast<uint16_t*>(scratch);
  uint16_t* const values = keys + part.batch * part.kv_heads * room * part.head_dim;
  if (to == CacheType::kBFloat16) {
    launch_unpack(part, reinterpret_cast<gpu_bfloat16*>(keys),
                  reinterpret_cast<gpu_bfloat16*>(values), stream);
  } else {
    launch_unpack(part, reinterpret_cast<__half*>(keys), reinterpret_cast<__half*>(values), stream);
  }
  AttentionCall unpacked = part;
  const auto view_of = [&](const void* data, int64_t dims) -> CacheView {
    return {to, data, part.kv_heads * room * dims * 2, dims * 2, room * dims * 2};
  };
  unpacked.k = view_of(keys, part.head_dim), unpacked.v = view_of(values, part.value_dim);
  unpacked.block_table = nullptr;
  unpacked.blocks_per_sequence = 1, unpacked.block_size = room, unpacked.num_blocks = part.batch;
  return unpacked;
}

}  // namespace rocmforge::gpu
