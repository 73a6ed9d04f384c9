// How a product with 3 to 16 rows of x is divided among blocks, and the launches of its kernels.
#pragma once

#include "hip/dispatch.h"
#include "hip/multirow.h"
#include "hip/multirow_kernel.h"

namespace rocmforge::gpu {

// How a product is divided; the same for both layouts, so that they give the same bits.
struct MultirowPlan {
  int threads, blocks, lds;
  int round_tiles, phases, phase_stages, cluster;
};

// clusters: whether blocks can have them.
template <class T, int kCols>
MultirowPlan multirow_plan(int cols, int tiles, bool clusters) {
  constexpr int kThreads = kMultirowThreads<T>;
  constexpr int kFile = TileSupply<T, FileView<T>>::bytes_per_wave();
  constexpr int kPacked = TileSupply<T, PackedView<T>>::bytes_per_wave();
  constexpr int kWaveBytes = (kFile > kPacked ? kFile : kPacked) + kScaleBytes<T>;
  constexpr int kShareBytes = 4 * kShareFloats<kCols>, kTileBytes = 4 * kCols * kTileRowsA;
  constexpr int kStageX = Stage<T>::kBodies * Body<T, kCols>::kBytes;
  constexpr int kStageWidth = Stage<T>::kWidth * Stage<T>::kBodies;
  constexpr int kMostTiles = kCopiesAhead ? 16 : 4;  // of a round; more cost LDS
  const int lanes = device_wave_size(), units = device_compute_units();
  const int room = device_lds_bytes() - kTableBytes<LdsTables<T>>;
  const int stages = (cols + kStageWidth - 1) / kStageWidth;
  MultirowPlan plan{};
  const auto bytes = [&](int threads) {
    const int waves = threads / lanes;
    return waves * kWaveBytes + (waves + plan.round_tiles) * kShareBytes + 4 * kCols +
           kSpanBytes * plan.round_tiles;
  };
  const auto stages_that_fit = [&](int used) { return used < room ? (room - used) / kStageX : 0; };
  plan.cluster = 1, plan.round_tiles = smaller(kMostTiles, (tiles + units - 1) / units);
  // A block beside which all of x does not fit divides it with a neighbour. More in a cluster would
  // leave multiprocessors idle, whose number in a group of them is not a multiple of four.
  if (clusters && stages_that_fit(bytes(kThreads)) < stages) {
    plan.cluster = 2;
    plan.round_tiles = smaller(kMostTiles, (tiles + units / 2 - 1) / (units / 2));
  }
  const int block_stages = (stages + plan.cluster - 1) / plan.cluster;
  // As many waves as leave that whole. Where it is less than half of them x comes by phases, few,
  // since each costs time.
  const int sums = plan.round_tiles * kTileBytes;
  const int least = plan.cluster > 1 ? sums : 0;
  plan.threads = kThreads;
  while (plan.threads > kThreads / 2 &&
         stages_that_fit(bytes(plan.threads) + least) < block_stages) {
    plan.threads -= kThreads / 4;
  }
  int turns = 1;
  plan.phase_stages = block_stages, plan.lds = bytes(plan.threads) + least;
  if (stages_that_fit(plan.lds) < block_stages) {
    plan.lds = bytes(plan.threads) + sums;
    const int most = stages_that_fit(plan.lds) > 0 ? stages_that_fit(plan.lds) : 1;
    turns = (block_stages + most - 1) / most;
    plan.phase_stages = (block_stages + turns - 1) / turns;
    turns = (block_stages + plan.phase_stages - 1) / plan.phase_stages;
    const int more = plan.threads + kThreads / 4;
    if (stages_that_fit(bytes(more) + sums) >= plan.phase_stages) {
      plan.threads = more, plan.lds = bytes(more) + sums;
    }
  }
  plan.phases = turns * plan.cluster;
  // Every phase has stages.
  if (plan.cluster > 1 && (plan.phases - 1) * plan.phase_stages >= stages) {
    return multirow_plan<T, kCols>(cols, tiles, false);
  }
  plan.lds += kTableBytes<LdsTables<T>> + plan.phase_stages * kStageX;
  // One block a multiprocessor: were there room for two, the first to be free would get two.
  if (const int half = device_lds_bytes() / 2; kCopiesAhead && plan.lds <= half)
    plan.lds = half + 1;
  const int fitting = device_lds_bytes() / plan.lds > 0 ? device_lds_bytes() / plan.lds : 1;
  const int blocks =
      smaller(units * smaller(blocks_per_unit(plan.threads), fitting) / plan.cluster, tiles);
  plan.blocks = blocks * plan.cluster;
  const int block_tiles = (tiles + blocks - 1) / blocks;
  const int rounds = (block_tiles + plan.round_tiles - 1) / plan.round_tiles;
  plan.round_tiles = (block_tiles + rounds - 1) / rounds;
  return plan;
}

template <class T, class View, int kCols>
void launch_multirow_view(const MultirowArgs& args, const MultirowPlan& plan, Stream stream) {
  const auto kernel = multirow_kernel<T, View, kCols>;
  allow_lds(kernel, plan.lds);
  launch_early_clusters(kernel, plan.cluster, dim3(static_cast<unsigned>(plan.blocks)),
                        dim3(static_cast<unsigned>(plan.threads)), plan.lds,
                        static_cast<gpuStream_t>(stream), args);
}

template <class T, int kCols>
void launch_multirow(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm) {
  const QuantMatrix& w = call.w;
  const int rows = static_cast<int>(w.rows), cols = static_cast<int>(w.cols);
  constexpr int kStageWidth = Stage<T>::kWidth * Stage<T>::kBodies;
  const int width = (cols + kStageWidth - 1) / kStageWidth * kStageWidth;
  using B = Body<T, kCols>;
  auto* const bodies = static_cast<uint8_t*>(call.workspace);
  auto* const squares = reinterpret_cast<float*>(bodies + B::count(width) * B::kBytes);
  launch_multirow_input(MultirowInput<T, kCols>{call.dtype, call.x, static_cast<int>(call.rows),
                                                cols, call.weights_at_rest, bodies},
                        width, norm, squares, call.stream);
  MultirowArgs args{};
  if (norm) {
    args.squares = squares, args.square_parts = multirow_input_parts(width), args.eps = norm->eps;
  }
  args.w = w.data, args.w_rows = rows, args.row_bytes = static_cast<int>(w.row_bytes);
  args.cols = cols;
  args.tile_stride = gated ? 8 : kTileRowsA, args.tile_offset = gated ? rows / 2 : 8;
  args.out_cols = gated ? rows / 2 : rows;
  args.tiles = (args.out_cols + args.tile_stride - 1) / args.tile_stride;
  const MultirowPlan plan = multirow_plan<T, kCols>(
      cols, args.tiles, can_cluster(multirow_kernel<T, PackedView<T>, kCols>));
  args.round_tiles = plan.round_tiles;
  args.phases = plan.phases, args.phase_stages = plan.phase_stages, args.cluster = plan.cluster;
  args.x = bodies, args.x_rows = static_cast<int>(call.rows);
  args.bias = call.bias, args.bias_dtype = call.bias_dtype, args.dtype = call.dtype;
  args.gated = gated, args.act = act, args.out = call.out;
  w.layout == 0 ? launch_multirow_view<T, FileView<T>, kCols>(args, plan, call.stream)
                : launch_multirow_view<T, PackedView<T>, kCols>(args, plan, call.stream);
}

template <class Types>
Status multirow_of(const MultirowCall& call, bool gated, Activation act, const InputNorm* norm) {
  with_type_of(Types{}, call.w.qtype, [&](auto type) {
    using T = decltype(type);
    call.rows <= 8 ? launch_multirow<T, 8>(call, gated, act, norm)
                   : launch_multirow<T, 16>(call, gated, act, norm);
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
