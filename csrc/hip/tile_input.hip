#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/mma.h"
#include "hip/quants/table.h"
#include "hip/tile_plan.h"
#include "hip/tile_power.h"

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

// A block per row; rows past the last are zeros.
template <typename T, bool kAligned>
__global__ void __launch_bounds__(kThreads)
    tile_input_kernel(const T* __restrict__ x, int64_t stride, int rows, int cols, int chunk_rows,
                      __half* __restrict__ values, float* __restrict__ factors) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  const int pieces = cols / kPiece;
  const T* const from = x + (row < rows ? row : 0) * stride;
  uint32_t largest = 0;
  for (int p = threadIdx.x; p < pieces; p += kThreads) {
    float piece[kPiece];
    load_piece<kAligned>(from + p * kPiece, piece);
#pragma unroll
    for (const float value : piece) largest = larger_magnitude(largest, value);
  }
  const RowPower power = row_power<kThreads>(largest);
  if (threadIdx.x == 0) factors[row] = power.back;
  const int64_t chunk = row / chunk_rows;
  __half* const to = values + (chunk * pieces * chunk_rows + row % chunk_rows) * kPiece;
  for (int p = threadIdx.x; p < pieces; p += kThreads) {
    float piece[kPiece];
    load_piece<kAligned>(from + p * kPiece, piece);
    Chunk<__half, kPiece> halves;
#pragma unroll
    for (int i = 0; i < kPiece; ++i) {
      halves.values[i] = from_float<__half>(row < rows ? piece[i] * power.to : 0.0f);
    }
    *reinterpret_cast<Chunk<__half, kPiece>*>(to + static_cast<int64_t>(p) * chunk_rows * kPiece) =
        halves;
  }
}

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

int64_t chunk_rows_for(int64_t rows, bool by_slots) {
  if (by_slots) return rows <= 32 ? 32 : kTileRows;
  return rows <= kFewestTileCols ? kFewestTileCols : rows <= 16 ? 16 : kTileRows;
}

bool goes_by_slots(int64_t rows) { return rows > 16 && device_has_warpgroups(); }

// Columns with those past a row: a turn of all slots is up to 512.
int64_t room_for(int64_t cols, bool by_slots) { return by_slots ? round_up(cols, 512) : cols; }

// For cards that have code for it (warpgroup_mma.h).
Status input_by_slots([[maybe_unused]] const TileSlotsCall& call) {
#if defined(ROCMFORGE_WARPGROUPS)
  const auto is_one_of = [&](auto types) { return with_type_of(types, call.qtype, [](auto) {}); };
  if (is_one_of(SimpleQuants{})) return tile_slots_simple(call);
  if (is_one_of(KQuants{})) return tile_slots_k(call);
  if (is_one_of(GridQuants{})) return tile_slots_grid(call);
  if (is_one_of(SmallQuants{})) return tile_slots_small(call);
#endif
  return "no GPU kernel for this quantization type";
}

}  // namespace

int64_t tile_input_bytes(int64_t rows, int64_t cols) {
  const bool by_slots = goes_by_slots(rows);
  return round_up(rows, chunk_rows_for(rows, by_slots)) * (room_for(cols, by_slots) * 2 + 4);
}

TileInput place_tile_input(void* workspace, int64_t rows, int64_t cols) {
  const bool by_slots = goes_by_slots(rows);
  const int64_t chunk_rows = chunk_rows_for(rows, by_slots);
  auto* values = static_cast<uint16_t*>(workspace);
  auto* factors =
      reinterpret_cast<float*>(values + round_up(rows, chunk_rows) * room_for(cols, by_slots));
  return {values, factors, static_cast<int>(chunk_rows), by_slots};
}

Status tile_input(int qtype, DType dtype, const void* x, int64_t stride, int64_t rows, int64_t cols,
                  const TileInput& out, Stream stream) {
  if (rows == 0 || cols == 0) return nullptr;
  if (out.by_slots) {
    const int64_t row_bytes = stride * (dtype == DType::kFloat32 ? 4 : 2);
    return input_by_slots({qtype, dtype, x, row_bytes, rows, cols, out, stream});
  }
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
