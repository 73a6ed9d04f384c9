// The tile kernel for cards whose matrix units serve four waves together (Hopper's wgmma): lanes
// decode weights as in tile_kernel.h and hand them over from registers; the units themselves read x
// from LDS. Both work while the other does.
//
// For that x stands in the order in which the lanes' slots hold columns: SlotOrder of tile_input.h.
// What a turn of a block needs is then one run of memory, and of LDS.
#pragma once

#include "hip/tile_input.h"
#include "hip/tile_kernel.h"
#include "hip/warpgroup_mma.h"

#if defined(ROCMFORGE_WARPGROUPS)

namespace rocmforge::gpu {

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
  const int64_t block_tile = static_cast<int64_t>(block / chunks) * kWarpgroupWaves;
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
    rows[i] = row_of_tile(args, block_tile + wave, row_of_a(lane, i));
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
                                       (kPiece * kRows);
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
  // Before the kernel that writes x let this one begin, no other was left that writes weights.
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
  store_tiles<T, kRows>(args, partial, 1, kWarpgroupWaves, block_tile, split,
                        static_cast<int64_t>(chunk) * kRows, x_rows);
#endif
}

template <class T, int kRows>
void launch_warpgroup_tile(const TileCall& call) {
  const QuantMatrix& w = call.w;
  const int64_t chunks = (call.rows + kRows - 1) / kRows;
  const int64_t blocks = (tiles_of(call) + kWarpgroupWaves - 1) / kWarpgroupWaves * chunks;
  const dim3 grid(static_cast<unsigned>(blocks), static_cast<unsigned>(call.splits.count));
  const auto kernel = w.layout == 0 ? tile_warpgroup_kernel<T, FileView<T>, kRows>
                                    : tile_warpgroup_kernel<T, PackedView<T>, kRows>;
  constexpr int kLds = warpgroup_lds_bytes<kRows>();
  allow_lds(kernel, kLds);
  launch_early(kernel, grid, dim3(kWarpgroupThreads), kLds, static_cast<gpuStream_t>(call.stream),
               tile_args(call, kTileWaves));
}

}  // namespace rocmforge::gpu

#endif
