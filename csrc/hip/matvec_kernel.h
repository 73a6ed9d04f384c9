// The matvec kernel, a template over type, layout and rows of x; instances are in matvec_*.hip.
//
// A wave computes kRows rows of w. Its lanes walk the steps of those rows side by side; a lane issues
// the loads of kAhead steps of every row before it uses the first, which is what keeps the memory
// busy. The sums of the lanes meet in a fixed order.
#pragma once

#include <type_traits>

#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/matvec.h"
#include "hip/quants/table.h"
#include "hip/reduce.h"

namespace rocmforge::gpu {

constexpr int kMatvecWaves = 4;  // of a block

template <class T, class View, int M, int kRows, int kAhead, typename Out>
__global__ void __launch_bounds__(kMatvecWaves* kWaveSize)
    matvec_kernel(const uint8_t* __restrict__ w, int64_t w_rows, int64_t row_bytes, int cols,
                  QuantActivations x, const float* __restrict__ bias, Out* __restrict__ out) {
  const int lane = threadIdx.x % kWaveSize;
  const int64_t row0 =
      (static_cast<int64_t>(blockIdx.x) * kMatvecWaves + threadIdx.x / kWaveSize) * kRows;
  if (row0 >= w_rows) return;
  float sums[kRows][M] = {};
  const int steps = cols / (16 * T::kGroups);

  const auto row = [&](int r) {
    // A last row is computed twice rather than branched around.
    return View(w, w_rows, row_bytes, row0 + r < w_rows ? row0 + r : w_rows - 1);
  };
  const auto add = [&](const typename T::Raw& raw, int s, float (&sum)[M]) {
    const int block = s / kSteps<T>, step = s % kSteps<T>;
    for_each_group<T::kGroups>([&](auto g) {
      const Group group = T::template decode<g>(raw, step);
      const int k = block * T::kBlock + T::template first<g>(step);
#pragma unroll
      for (int m = 0; m < M; ++m) {
        const int4 codes = *reinterpret_cast<const int4*>(x.codes + m * cols + k);
        int dot = dot4(group.codes[0], codes.x, 0);
        dot = dot4(group.codes[1], codes.y, dot);
        dot = dot4(group.codes[2], codes.z, dot);
        dot = dot4(group.codes[3], codes.w, dot);
        float product = x.scales[(m * cols + k) / 32] * static_cast<float>(dot);
        if constexpr (T::kOffset != 0 || T::kMins) {
          const float x_sum = x.sums[(m * cols + k) / 16];
          if constexpr (T::kOffset != 0) product -= T::kOffset * x_sum;
          if constexpr (T::kMins) sum[m] += group.min * x_sum;
        }
        sum[m] += group.scale * product;
      }
    });
  };

  int s = lane;
  for (; s + (kAhead - 1) * kWaveSize < steps; s += kAhead * kWaveSize) {
    typename T::Raw raw[kAhead][kRows];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        const int at = s + a * kWaveSize;
        raw[a][r] = T::load(row(r), at / kSteps<T>, at % kSteps<T>);
      }
    }
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
#pragma unroll
      for (int r = 0; r < kRows; ++r) add(raw[a][r], s + a * kWaveSize, sums[r]);
    }
  }
  for (; s < steps; s += kWaveSize) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      add(T::load(row(r), s / kSteps<T>, s % kSteps<T>), s, sums[r]);
    }
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const float sum = wave_sum(sums[r][m]);
      if (lane == 0 && row0 + r < w_rows) {
        const float shift = bias ? bias[row0 + r] : 0.0f;
        out[m * w_rows + row0 + r] = from_float<Out>(sum + shift);
      }
    }
  }
}

}  // namespace rocmforge::gpu
