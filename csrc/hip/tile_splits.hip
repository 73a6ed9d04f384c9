// Products whose columns are divided among blocks: into how many splits, and what adds them up.
#include "hip/dispatch.h"
#include "hip/tile_plan.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 128;

struct SplitSums {
  const float* sums;
  int splits, w_rows;
  int64_t total;  // of each split
  const float* factors;
  const void* bias;
  DType bias_dtype, dtype;
  void* out;
};

// A thread to a result; the order of the splits is fixed.
__global__ void __launch_bounds__(kThreads) tile_splits_kernel(SplitSums args) {
  follow_previous();
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= args.total) return;
  const int64_t x_row = i / args.w_rows, row = i - x_row * args.w_rows;
  float sum = 0.0f;
#pragma unroll 4
  for (int s = 0; s < args.splits; ++s) sum += args.sums[s * args.total + i];
  const float shift = args.bias ? load_as(args.bias_dtype, args.bias, row) : 0.0f;
  store_as(args.dtype, args.out, i, sum * args.factors[x_row] + shift);
}

int64_t divided(int64_t n, int64_t by) { return (n + by - 1) / by; }

}  // namespace

int tile_splits(int64_t rows, int64_t w_rows, int64_t cols) {
  if (rows <= 16 || w_rows == 0) return 1;  // waves of a block divide the columns instead
  const int64_t blocks = divided(w_rows, kTileBlockRows) * divided(rows, kTileRows);
  const int64_t splits = int64_t{kTileUnitBlocks} * device_compute_units() / blocks;
  const int64_t most = cols / kFewestSplitCols;
  const int64_t count = splits < most ? splits : most;
  return count > 1 ? static_cast<int>(count) : 1;
}

Status sum_tile_splits(const TileCall& call) {
  const SplitSums args{call.splits.sums,        call.splits.count, static_cast<int>(call.w.rows),
                       call.rows * call.w.rows, call.x.factors,    call.bias,
                       call.bias_dtype,         call.dtype,        call.out};
  launch_early(tile_splits_kernel, dim3(static_cast<unsigned>(divided(args.total, kThreads))),
               dim3(kThreads), 0, static_cast<gpuStream_t>(call.stream), args);
  return launch_status();
}

}  // namespace rocmforge::gpu
