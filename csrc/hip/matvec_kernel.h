// The matvec kernel, a template over type, layout and rows of x; instances are in matvec_*.hip.
//
// A wave computes kRows rows of w. Its lanes walk the steps of those rows side by side; a lane
// issues the loads of kAhead steps of every row before it uses the first, which is what keeps the
// memory busy. The sums of the lanes meet in a fixed order.
#pragma once

#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/matvec.h"
#include "hip/quants/table.h"
#include "hip/reduce.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {

constexpr int kMatvecWaves = 4;  // of a block

// Rows of w to a wave: what is loaded of x serves them all.
template <int M>
constexpr int kMatvecRows = M <= 2 ? 1 : 2;

// Steps whose loads a lane issues at once, so that about 64 bytes are under way.
template <class T, int kRows>
constexpr int kMatvecAhead = sizeof(typename T::Raw) * kRows <= 24   ? 4
                             : sizeof(typename T::Raw) * kRows <= 64 ? 2
                                                                     : 1;

struct MatvecArgs {
  const uint8_t* w;
  int64_t w_rows, row_bytes;
  int cols, x_rows;
  QuantActivations x;
  const void* bias;
  DType bias_dtype, dtype;
  void* out;
};

// sums[r][m] += x[m] . the weights of one step of row r.
template <class T, int M, int kRows>
__device__ __forceinline__ void add_step(const typename T::Raw (&raw)[kRows], int s, int cols,
                                         const QuantActivations& x, float (&sums)[kRows][M]) {
  const int block = s / kSteps<T>, step = s % kSteps<T>;
  for_each_group<T::kGroups>([&](auto g) {
    const int first = block * T::kBlock + T::template first<g>(step);
    Group groups[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) groups[r] = T::template decode<g>(raw[r], step);
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const int at = m * cols + first;
      const int4 codes = *reinterpret_cast<const int4*>(x.codes + at);
      const float x_scale = x.scales[at / 32];
      [[maybe_unused]] float x_sum = 0.0f;
      if constexpr (T::kOffset != 0 || T::kMins) x_sum = x.sums[at / 16];
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        int dot = dot4(groups[r].codes[0], codes.x, 0);
        dot = dot4(groups[r].codes[1], codes.y, dot);
        dot = dot4(groups[r].codes[2], codes.z, dot);
        dot = dot4(groups[r].codes[3], codes.w, dot);
        float product = x_scale * static_cast<float>(dot);
        if constexpr (T::kOffset != 0) product -= T::kOffset * x_sum;
        sums[r][m] += groups[r].scale * product;
        if constexpr (T::kMins) sums[r][m] += groups[r].min * x_sum;
      }
    }
  });
}

template <class T, class View, int M>
__global__ void __launch_bounds__(kMatvecWaves* kWaveSize) matvec_kernel(MatvecArgs args) {
  constexpr int kRows = kMatvecRows<M>, kAhead = kMatvecAhead<T, kRows>;
  const int lane = threadIdx.x % kWaveSize;
  const int64_t row0 =
      (static_cast<int64_t>(blockIdx.x) * kMatvecWaves + threadIdx.x / kWaveSize) * kRows;
  if (row0 >= args.w_rows) return;
  float sums[kRows][M] = {};
  const int steps = args.cols / (16 * T::kGroups);

  const auto load = [&](int s, typename T::Raw(&raw)[kRows]) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      // A last row is computed twice rather than branched around.
      const int64_t row = row0 + r < args.w_rows ? row0 + r : args.w_rows - 1;
      raw[r] =
          T::load(View(args.w, args.w_rows, args.row_bytes, row), s / kSteps<T>, s % kSteps<T>);
    }
  };
  int s = lane;
  for (; s + (kAhead - 1) * kWaveSize < steps; s += kAhead * kWaveSize) {
    typename T::Raw raw[kAhead][kRows];
#pragma unroll
    for (int a = 0; a < kAhead; ++a) load(s + a * kWaveSize, raw[a]);
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      add_step<T, M, kRows>(raw[a], s + a * kWaveSize, args.cols, args.x, sums);
    }
  }
  if constexpr (kAhead > 1) {
    for (; s < steps; s += kWaveSize) {
      typename T::Raw raw[kRows];
      load(s, raw);
      add_step<T, M, kRows>(raw, s, args.cols, args.x, sums);
    }
  }

#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int m = 0; m < M; ++m) {
      const float sum = wave_sum(sums[r][m]);
      if (lane == 0 && row0 + r < args.w_rows && m < args.x_rows) {
        const float shift = args.bias ? load_as(args.bias_dtype, args.bias, row0 + r) : 0.0f;
        store_as(args.dtype, args.out, m * args.w_rows + row0 + r, sum + shift);
      }
    }
  }
}

template <class T, int M>
void launch_matvec(const MatvecCall& call) {
  const QuantMatrix& w = call.w;
  const int rows = kMatvecWaves * kMatvecRows<M>;
  const auto kernel =
      w.layout == 0 ? matvec_kernel<T, FileView<T>, M> : matvec_kernel<T, PackedView<T>, M>;
  kernel<<<static_cast<unsigned>((w.rows + rows - 1) / rows), kMatvecWaves * device_wave_size(), 0,
           static_cast<gpuStream_t>(call.stream)>>>(
      MatvecArgs{w.data, w.rows, w.row_bytes, static_cast<int>(w.cols), static_cast<int>(call.rows),
                 call.x, call.bias, call.bias_dtype, call.dtype, call.out});
}

template <class Types>
Status matvec_of(const MatvecCall& call) {
  with_type_of(Types{}, call.w.qtype, [&](auto type) {
    using T = decltype(type);
    switch (matvec_rows(call.rows)) {
      case 1:
        return launch_matvec<T, 1>(call);
      case 2:
        return launch_matvec<T, 2>(call);
      case 4:
        return launch_matvec<T, 4>(call);
      default:
        return launch_matvec<T, 8>(call);
    }
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
