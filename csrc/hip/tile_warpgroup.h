// The tile kernel for cards whose matrix units serve four waves together (Hopper's wgmma): lanes
// decode weights as in tile_kernel.h and hand them over from registers; the units themselves read x
// from LDS. Both work while the other does.
//
// For that x stands in the order in which the lanes' slots hold columns: see SlotOrder. What a turn
// of a block needs is then one run of memory, and of LDS.
#pragma once

#include "hip/rounding.h"
#include "hip/tile_kernel.h"
#include "hip/tile_power.h"
#include "hip/warpgroup_mma.h"

#if defined(ROCMFORGE_WARPGROUPS)

namespace rocmforge::gpu {

constexpr int kSlotPiece = 8;  // values of a row of x that stand side by side

// x by pieces: two columns of every slot. A turn is a step of every slot; its pieces go by groups,
// and within a group along the 16 columns of the step.
template <class T>
struct SlotOrder {
  static constexpr int kPieces = 16 / 2 * T::kGroups;  // of a turn
  static constexpr int kWidth = kPieces * kSlotPiece;  // columns of a turn
  static constexpr int pieces(int cols) { return (cols + kWidth - 1) / kWidth * kPieces; }

  // The first of a slot's two columns, or one past the row.
  static __device__ __forceinline__ int column(int piece, int slot) {
    const int step = piece / kPieces * kSlots + slot, in_turn = piece % kPieces;
    const int group = in_turn / 8, at = in_turn % 8 * 2;
    constexpr int kApart = T::template first<1>(0) - T::template first<0>(0);
    return step / kSteps<T> * T::kBlock + T::template first<0>(step % kSteps<T>) + group * kApart +
           (at < 8 ? at : kHalfApart<T> + at - 8);
  }
};

constexpr int kSlotInputThreads = 1024;

// A block per row, as tile_input_kernel: the row's largest magnitude comes between 2^14 and 2^15.
// Rows of x start at multiples of 16 bytes.
template <class T>
__global__ void __launch_bounds__(kSlotInputThreads)
    tile_slots_kernel(DType dtype, const uint8_t* x, int64_t row_bytes, int rows, int cols,
                      int chunk_rows, __half* values, float* factors) {
  follow_previous();
  const int row = static_cast<int>(blockIdx.x);
  const uint8_t* const from = x + (row < rows ? row : 0) * row_bytes;
  uint32_t largest = 0;
  for (int at = static_cast<int>(threadIdx.x) * kRoundedAtOnce; at < cols;
       at += kSlotInputThreads * kRoundedAtOnce) {
    float eight[kRoundedAtOnce];
    values_of(dtype, load_words_of(dtype, from, at), eight);
#pragma unroll
    for (const float value : eight) largest = larger_magnitude(largest, value);
  }
  const RowPower power = row_power<kSlotInputThreads>(largest);
  if (threadIdx.x == 0) factors[row] = power.back;
  const int pieces = SlotOrder<T>::pieces(cols);
  auto* const to = reinterpret_cast<uint4*>(values) +
                   static_cast<int64_t>(row / chunk_rows) * pieces * chunk_rows + row % chunk_rows;
  for (int p = static_cast<int>(threadIdx.x); p < pieces; p += kSlotInputThreads) {
    uint32_t words[kSlots];
#pragma unroll
    for (int s = 0; s < kSlots; ++s) {
      const int col = SlotOrder<T>::column(p, s);
      float pair[2] = {0.0f, 0.0f};
      if (row < rows && col < cols) load_pair(dtype, from, col, pair);
      words[s] = pack_pair<__half>(pair[0] * power.to, pair[1] * power.to);
    }
    to[static_cast<int64_t>(p) * chunk_rows] = make_uint4(words[0], words[1], words[2], words[3]);
  }
}

constexpr int kWarpgroupWaves = 16;  // of a block: four groups, which share what LDS has of x
constexpr int kWarpgroupThreads = kWarpgroupWaves * 32;
static_assert(16 * kWarpgroupWaves == kTileBlockRows);

// Stages of x in LDS, some phases of 64 columns each, which are used while others are on their way.
constexpr int kStagePhases = 2, kStagePlaces = 4;
constexpr int kPhaseCols = 64;

// Turns of a row whose loads a lane keeps under way.
template <class T>
constexpr int kWarpgroupAhead = sizeof(typename T::Raw) <= 20 && T::kGroups < 8 ? 4 : kTileAhead<T>;

template <int kRows>
constexpr int kStageHalves = kStagePhases * kPhaseCols * kRows;
template <int kRows>
constexpr int warpgroup_lds_bytes() {
  constexpr int kStaged = kStagePlaces * kStageHalves<kRows> * 2;
  constexpr int kSums = kWarpgroupWaves * kRows * kSumRows * 4;
  return kStaged > kSums ? kStaged : kSums;
}

template <class T, class View, int kRows>
__global__ void __launch_bounds__(kWarpgroupThreads, 1) tile_warpgroup_kernel(TileArgs args) {
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
  using Order = SlotOrder<T>;
  constexpr int kAhead = kWarpgroupAhead<T>, kGroups = T::kGroups;
  static_assert(kGroups % kStagePhases == 0);
  const int lane = threadIdx.x % kWaveSize, wave = threadIdx.x / kWaveSize;
  const int chunks = (args.x_rows + kRows - 1) / kRows, block = static_cast<int>(blockIdx.x);
  const int64_t block_row = static_cast<int64_t>(block / chunks) * kTileBlockRows;
  const int chunk = block % chunks, left = args.x_rows - chunk * kRows;
  const int x_rows = left < kRows ? left : kRows;
  const int all_steps = args.cols / (16 * kGroups);
  const int all_turns = (all_steps + kSlots - 1) / kSlots;
  const int splits = static_cast<int>(gridDim.y), split = static_cast<int>(blockIdx.y);
  const int split_turns = (all_turns + splits - 1) / splits, first_turn = split * split_turns;
  const int turns = smaller(all_turns, first_turn + split_turns);

  int64_t rows[kLaneRowsA];
#pragma unroll
  for (int i = 0; i < kLaneRowsA; ++i) {
    // Rows past the last are computed like it and left out.
    const int64_t row = block_row + wave * 16 + row_of_a(lane, i);
    rows[i] = row < args.w_rows ? row : args.w_rows - 1;
  }
  // Steps past the last are read like it and multiplied by 0.
  const auto step_of = [&](int turn) { return smaller(turn * kSlots + slot(lane), all_steps - 1); };
  typename T::Raw raw[kAhead][kLaneRowsA];
  const auto load = [&](int turn, typename T::Raw(&to)[kLaneRowsA]) {
    const int s = step_of(turn);
#pragma unroll
    for (int i = 0; i < kLaneRowsA; ++i) {
      const View view(args.w, args.w_rows, args.row_bytes, rows[i]);
      to[i] = T::load(view, s / kSteps<T>, s % kSteps<T>);
    }
  };

  extern __shared__ __align__(128) uint4 memory[];
  __half* const staged = reinterpret_cast<__half*>(memory);
  const __half* const x = args.x + (static_cast<int64_t>(chunk) * Order::pieces(args.cols) +
                                    first_turn * Order::kPieces) *
                                       (kSlotPiece * kRows);
  const int stages = (turns - first_turn) * (kGroups / kStagePhases);
  __shared__ BulkPlace places[kStagePlaces];
  const bool fills = threadIdx.x == 0;
  const auto fill = [&](int stage, int place) {
    constexpr int kHalves = kStageHalves<kRows>;
    places[place].fill(staged + place * kHalves, x + static_cast<int64_t>(stage) * kHalves,
                       2 * kHalves);
  };
  if (fills) {
    for (BulkPlace& place : places) place.init(kWarpgroupWaves);
  }
  __syncthreads();

  WarpgroupTile<kRows> sums = {};
#pragma unroll
  for (int a = 0; a < kAhead; ++a) load(first_turn + a, raw[a]);
  // Before the kernel that writes x could start, no other was left that writes weights.
  follow_previous();
  if (fills) {
    for (int s = 0; s < smaller(kStagePlaces, stages); ++s) fill(s, s);
  }

  int stage = 0;
#pragma unroll 1
  for (int at = first_turn; at < turns; at += kAhead) {
    for_each_group<kAhead * kGroups>([&](auto phase) {
      constexpr int a = phase / kGroups, g = phase % kGroups, kPart = phase % kStagePhases;
      const int turn = at + a;
      if (turn >= turns) return;
      const int place = stage % kStagePlaces, round = stage / kStagePlaces;
      const bool inside = turn * kSlots + slot(lane) < all_steps;
      const int step = step_of(turn) % kSteps<T>;
      uint32_t weights[4][kLaneRowsA * 2];
#pragma unroll
      for (int i = 0; i < kLaneRowsA; ++i) {
        const Span<__half> span = half_values<T>(T::template decode<g>(raw[a][i], step), inside);
#pragma unroll
        for (int w = 0; w < 8; ++w) weights[w / 2][i + w % 2 * 2] = span.words[w];
      }
      if constexpr (g == kGroups - 1) load(turn + kAhead, raw[a]);
      const __half* const from = staged + place * kStageHalves<kRows> + kPart * kPhaseCols * kRows;
      if constexpr (kPart == 0) places[place].await_filled(round);
      begin_products();
#pragma unroll
      for (int j = 0; j < 4; ++j) sums.add(weights[j], from + 16 * j * kRows);
      close_products();
      await_products<0>();  // the other groups decode meanwhile
      if constexpr (kPart == kStagePhases - 1) {
        if (lane == 0) places[place].release();
        // The place before is filled anew: by now others have hardly anything left to do there.
        const int next = stage - 1 + kStagePlaces;
        if (fills && stage > 0 && next < stages) {
          places[next % kStagePlaces].await_released(next / kStagePlaces - 1);
          fill(next, next % kStagePlaces);
        }
        __syncwarp();
        ++stage;
      }
    });
  }
  __syncthreads();  // sums take the place of x

  auto* const partial = reinterpret_cast<float (*)[kRows][kSumRows]>(memory);  // of waves
#pragma unroll
  for (int e = 0; e < kRows / 2; ++e) {
    partial[wave][e / 4 * 8 + lane % 4 * 2 + e % 2][lane / 4 + e / 2 % 2 * 8] = sums.values[e];
  }
  __syncthreads();
  for (int i = threadIdx.x; i < x_rows * kTileBlockRows; i += kWarpgroupThreads) {
    const int m = i / kTileBlockRows, n = i % kTileBlockRows;
    const int64_t row = block_row + n;
    if (row < args.w_rows) {
      store_tile_sum<T>(args, split, static_cast<int64_t>(chunk) * kRows + m, row,
                        partial[n / 16][m][n % 16]);
    }
  }
#endif
}

template <class T, int kRows>
void launch_warpgroup_tile(const TileCall& call) {
  const QuantMatrix& w = call.w;
  const int64_t chunks = (call.rows + kRows - 1) / kRows;
  const dim3 grid(static_cast<unsigned>((w.rows + kTileBlockRows - 1) / kTileBlockRows * chunks),
                  static_cast<unsigned>(call.splits.count));
  const auto kernel = w.layout == 0 ? tile_warpgroup_kernel<T, FileView<T>, kRows>
                                    : tile_warpgroup_kernel<T, PackedView<T>, kRows>;
  constexpr int kLds = warpgroup_lds_bytes<kRows>();
  allow_lds(kernel, kLds);
  launch_early(kernel, grid, dim3(kWarpgroupThreads), kLds, static_cast<gpuStream_t>(call.stream),
               tile_args(call, kTileWaves));
}

template <class T>
void launch_slots_input(const TileSlotsCall& call) {
  const auto written = static_cast<unsigned>((call.rows + call.out.chunk_rows - 1) /
                                             call.out.chunk_rows * call.out.chunk_rows);
  launch_early(tile_slots_kernel<T>, dim3(written), dim3(kSlotInputThreads), 0,
               static_cast<gpuStream_t>(call.stream), call.dtype,
               static_cast<const uint8_t*>(call.x), call.row_bytes, static_cast<int>(call.rows),
               static_cast<int>(call.cols), call.out.chunk_rows,
               reinterpret_cast<__half*>(call.out.values), call.out.factors);
}

}  // namespace rocmforge::gpu

#endif
