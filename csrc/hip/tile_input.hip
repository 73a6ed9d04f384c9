#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/mma.h"
#include "hip/tile_plan.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kPiece = 8;  // values that stand together in TileInput

// Eight neighbours of a row of x.
template <bool kAligned, typename T>
__device__ __forceinline__ void load_piece(const T* from, float (&values)[kPiece]) {
  constexpr int kCount = kAligned ? kChunk<T> : 1;
#pragma unroll
  for (int i = 0; i < kPiece; i += kCount) {
    const auto chunk = *reinterpret_cast<const Chunk<T, kCount>*>(from + i);
#pragma unroll
    for (int j = 0; j < kCount; ++j) values[i + j] = to_float(chunk.values[j]);
  }
}

// The largest of the block's numbers, for every thread.
__device__ __forceinline__ uint32_t block_max(uint32_t value) {
  constexpr int kWaves = kThreads / kWaveSize;
  __shared__ uint32_t partial[kWaves];
#pragma unroll
  for (int mask = kWaveSize / 2; mask > 0; mask /= 2) {
    const uint32_t other = wave_shuffle_xor(value, mask);
    value = other > value ? other : value;
  }
  if (threadIdx.x % kWaveSize == 0) partial[threadIdx.x / kWaveSize] = value;
  __syncthreads();
#pragma unroll
  for (int wave = 0; wave < kWaves; ++wave) value = partial[wave] > value ? partial[wave] : value;
  return value;
}

// A block per row. The power of two puts the row's largest magnitude between 2^14 and 2^15; rows
// past the last are zeros.
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    tile_input_kernel(const T* __restrict__ x, int64_t stride, int rows, int cols, int chunk_rows,
                      __half* __restrict__ values, float* __restrict__ factors) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  const int pieces = cols / kPiece;
  const T* const from = x + (row < rows ? row : 0) * stride;
  // As integers the magnitudes are ordered, with infinity and NaN above all numbers.
  uint32_t largest = 0;
  for (int p = threadIdx.x; p < pieces; p += kThreads) {
    float piece[kPiece];
    load_piece<kAligned>(from + p * kPiece, piece);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      const uint32_t bits = __float_as_uint(fabsf(piece[i]));
      largest = bits > largest ? bits : largest;
    }
  }
  const uint32_t exponent = block_max(largest) >> 23;
  const uint32_t up = exponent < 15 ? 15 : exponent;  // so that both powers below are normal
  const float power = row < rows ? __uint_as_float((127 + 127 + 14 - up) << 23) : 0.0f;
  if (threadIdx.x == 0) factors[row] = __uint_as_float((up - 14) << 23);
  const int64_t chunk = row / chunk_rows;
  __half* const to = values + (chunk * pieces * chunk_rows + row % chunk_rows) * kPiece;
  for (int p = threadIdx.x; p < pieces; p += kThreads) {
    float piece[kPiece];
    load_piece<kAligned>(from + p * kPiece, piece);
    Chunk<__half, kPiece> halves;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      halves.values[i] = from_float<__half>(row < rows ? piece[i] * power : 0.0f);
    }
    *reinterpret_cast<Chunk<__half, kPiece>*>(to + static_cast<int64_t>(p) * chunk_rows * kPiece) =
        halves;
  }
}

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

int64_t chunk_rows_for(int64_t rows) {
  return rows <= kFewestTileCols ? kFewestTileCols : rows <= 16 ? 16 : kTileRows;
}

}  // namespace

int64_t tile_input_bytes(int64_t rows, int64_t cols) {
  return round_up(rows, chunk_rows_for(rows)) * (cols * 2 + 4);
}

TileInput place_tile_input(void* workspace, int64_t rows, int64_t cols) {
  const int64_t chunk_rows = chunk_rows_for(rows);
  auto* values = static_cast<uint16_t*>(workspace);
  auto* factors = reinterpret_cast<float*>(values + round_up(rows, chunk_rows) * cols);
  return {values, factors, static_cast<int>(chunk_rows)};
}

Status tile_input(DType dtype, const void* x, int64_t stride, int64_t rows, int64_t cols,
                  const TileInput& out, Stream stream) {
  if (rows == 0 || cols == 0) return nullptr;
  // Rows past the last fill what is multiplied at once: their products are not used, but computed.
  const int64_t written =
      round_up(rows, out.chunk_rows < kTileRowsAtOnce ? out.chunk_rows : kTileRowsAtOnce);
  with_dtype(dtype, [&](auto element) {
    using T = decltype(element);
    with_bool(is_aligned(x, stride * static_cast<int64_t>(sizeof(T))), [&](auto aligned) {
      launch_early(tile_input_kernel<T, decltype(aligned)::value>,
                   dim3(static_cast<unsigned>(written)), dim3(kThreads), 0,
                   static_cast<gpuStream_t>(stream), static_cast<const T*>(x), stride,
                   static_cast<int>(rows), static_cast<int>(cols), out.chunk_rows,
                   reinterpret_cast<__half*>(out.values), out.factors);
    });
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
