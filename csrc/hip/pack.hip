#include <iterator>

#include "hip/chunks.h"
#include "hip/dispatch.h"
#include "hip/pack.h"
#include "hip/quants/table.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kMaxFields = 8;

struct Fields {
  int count;
  int block_bytes;
  Field fields[kMaxFields];
};

// A thread moves bytes of the packed matrix, of which byte i of a plane is byte i % size of block
// i / size.
__global__ void __launch_bounds__(kThreads)
    repack_kernel(Fields layout, const uint8_t* from, uint8_t* __restrict__ to, int64_t blocks,
                  bool packing) {
  const int64_t bytes = blocks * layout.block_bytes;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < bytes;
       i += static_cast<int64_t>(gridDim.x) * kThreads) {
    int64_t at = i;  // in the plane
    int f = 0;
    while (at >= blocks * layout.fields[f].size) at -= blocks * layout.fields[f++].size;
    const Field field = layout.fields[f];
    const int64_t in_file = at / field.size * layout.block_bytes + field.offset + at % field.size;
    if (packing) {
      to[i] = from[in_file];
    } else {
      to[in_file] = from[i];
    }
  }
}

Status repack(int qtype, const uint8_t* from, uint8_t* to, int64_t blocks, bool packing,
              Stream stream) {
  if (blocks == 0) return nullptr;
  const bool known = with_type_of(AllQuants{}, qtype, [&](auto type) {
    using T = decltype(type);
    Fields layout{static_cast<int>(std::size(T::kFields)), T::kBytes, {}};
    static_assert(std::size(T::kFields) <= kMaxFields);
    for (int f = 0; f < layout.count; ++f) layout.fields[f] = T::kFields[f];
    const int64_t threads = blocks * T::kBytes;
    repack_kernel<<<grid_size((threads + kThreads - 1) / kThreads), kThreads, 0,
                    static_cast<gpuStream_t>(stream)>>>(layout, from, to, blocks, packing);
  });
  return known ? launch_status() : "no packed layout for this quantization type";
}

}  // namespace

Status pack_weight(int qtype, const uint8_t* file, uint8_t* packed, int64_t blocks, Stream stream) {
  return repack(qtype, file, packed, blocks, true, stream);
}

Status unpack_weight(int qtype, const uint8_t* packed, uint8_t* file, int64_t blocks,
                     Stream stream) {
  return repack(qtype, packed, file, blocks, false, stream);
}

}  // namespace rocmforge::gpu
