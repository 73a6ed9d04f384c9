#include "hip/chunks.h"
#include "hip/dispatch.h"
#include "hip/quantize.h"
#include "hip/quantize_block.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kGroups = kThreads / kGroupLanes;

// A group of lanes to a block of a row.
template <class Blocks>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(DType dtype, const void* x, RowLayout x_rows, int64_t rows, int64_t row_blocks,
                    bool vectors, uint8_t* __restrict__ out) {
  const int lane = threadIdx.x % kGroupLanes;
  const int64_t total = rows * row_blocks;
  for (int64_t first = static_cast<int64_t>(blockIdx.x) * kGroups; first < total;
       first += static_cast<int64_t>(gridDim.x) * kGroups) {
    const int64_t block = first + threadIdx.x / kGroupLanes;
    const bool active = block < total;
    float values[kLaneValues] = {};
    if (active) {
      const int64_t row = rows == 1 ? 0 : block / row_blocks;
      const int64_t at = row_offset(x_rows, row) + (block - row * row_blocks) * 32;
      load_eight(dtype, x, at + kLaneValues * lane, vectors, values);
    }
    Blocks::store(values, lane, out + block * Blocks::kBytes, active);
  }
}

// Calls body(Quantizer{}), if there is one.
template <typename Body>
bool with_quantizer(int qtype, Body body) {
  switch (qtype) {
    case QuantizeQ4_0::kType:
      return body(QuantizeQ4_0{}), true;
    case QuantizeQ4_1::kType:
      return body(QuantizeQ4_1{}), true;
    case QuantizeQ5_0::kType:
      return body(QuantizeQ5_0{}), true;
    case QuantizeQ5_1::kType:
      return body(QuantizeQ5_1{}), true;
    case QuantizeQ8_0::kType:
      return body(QuantizeQ8_0{}), true;
    case QuantizeQ8_1::kType:
      return body(QuantizeQ8_1{}), true;
    default:
      return false;
  }
}

int64_t element_bytes(DType dtype) { return dtype == DType::kFloat32 ? 4 : 2; }

}  // namespace

bool has_quantizer(int qtype) {
  return with_quantizer(qtype, [](auto) {});
}

bool is_captured(Stream stream) { return stream_is_captured(static_cast<gpuStream_t>(stream)); }

Status quantize(int qtype, DType dtype, const void* x, const RowLayout* x_rows, int64_t rows,
                int64_t width, void* out, Stream stream) {
  int64_t row_blocks = width / 32;
  if (rows == 0 || row_blocks == 0) return nullptr;
  // Rows without gaps are one row: then no block needs to be divided by their number.
  if (x_rows->inner >= rows && x_rows->inner_stride == width) row_blocks *= rows, rows = 1;
  const bool vectors = rows_aligned(x, *x_rows, element_bytes(dtype));
  const int64_t blocks = (rows * row_blocks + kGroups - 1) / kGroups;
  with_quantizer(qtype, [&](auto quantizer) {
    quantize_kernel<decltype(quantizer)>
        <<<grid_size(blocks), kThreads, 0, static_cast<gpuStream_t>(stream)>>>(
            dtype, x, *x_rows, rows, row_blocks, vectors, static_cast<uint8_t*>(out));
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
