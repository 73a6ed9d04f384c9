// Products whose columns are divided among blocks: into how many splits, and what adds them up.
#include "hip/chunks.h"
#include "hip/dispatch.h"
#include "hip/gates.h"
#include "hip/tile_plan.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {
namespace {

constexpr int kThreads = 128;

struct SplitSums {
  const float* sums;
  int splits, w_rows;
  int64_t size;  // of each split
  int out_cols;
  const float* factors;
  const void* bias;
  DType bias_dtype, dtype;
  void* out;
  bool gated;
  Activation act;
};

// kWidth neighbours of a row of x to a thread; the order of the splits is fixed.
template <int kWidth>
__global__ void __launch_bounds__(kThreads) tile_splits_kernel(SplitSums args) {
  struct alignas(4 * kWidth) Sums {
    float values[kWidth];
  };
  follow_previous();
  const int col = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * kWidth;
  if (col >= args.out_cols) return;
  const int64_t x_row = blockIdx.y;
  const float factor = args.factors[x_row];
  const auto products = [&](int row, float (&found)[kWidth]) {
    const float* const from = args.sums + x_row * args.w_rows + row;
    Sums sum = {};
#pragma unroll 4
    for (int s = 0; s < args.splits; ++s) {
      const Sums next = *reinterpret_cast<const Sums*>(from + s * args.size);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) sum.values[i] += next.values[i];
    }
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      const float shift = args.bias ? load_as(args.bias_dtype, args.bias, row + i) : 0.0f;
      found[i] = sum.values[i] * factor + shift;
    }
  };
  float values[kWidth];
  products(col, values);
  if (args.gated) {
    float others[kWidth];
    products(col + args.out_cols, others);
#pragma unroll
    for (int i = 0; i < kWidth; ++i) values[i] = activate(args.act, values[i]) * others[i];
  }
#pragma unroll
  for (int i = 0; i < kWidth; ++i) {
    store_as(args.dtype, args.out, x_row * args.out_cols + col + i, values[i]);
  }
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
  const int64_t out_cols = call.gated ? call.w.rows / 2 : call.w.rows;
  const SplitSums args{call.splits.sums,
                       call.splits.count,
                       static_cast<int>(call.w.rows),
                       call.rows * call.w.rows,
                       static_cast<int>(out_cols),
                       call.x.factors,
                       call.bias,
                       call.bias_dtype,
                       call.dtype,
                       call.out,
                       call.gated,
                       call.act};
  constexpr int kWide = 4;
  const bool wide = out_cols % kWide == 0 && call.w.rows % kWide == 0 && is_aligned(args.sums);
  with_bool(wide, [&](auto is_wide) {
    constexpr int kWidth = decltype(is_wide)::value ? kWide : 1;
    launch_early(tile_splits_kernel<kWidth>,
                 dim3(static_cast<unsigned>(divided(out_cols, kThreads * kWidth)),
                      static_cast<unsigned>(call.rows)),
                 dim3(kThreads), 0, static_cast<gpuStream_t>(call.stream), args);
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
