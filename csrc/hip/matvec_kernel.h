// The matvec kernel, a template over type, layout and rows of x; instances are in matvec_*.hip.
//
// As many blocks as the card holds at once share the rows of w. Each copies what it needs of x, and
// its look-up tables, into LDS once, while the first weights are on their way. A wave walks pairs
// of rows, so that what it reads of x serves two; its lanes work at neighbouring steps of them. The
// loads of the next steps, also of the next pair, are under way while one is being used. The sums
// of the lanes meet in a fixed order.
#pragma once

#include "hip/activations.h"
#include "hip/dispatch.h"
#include "hip/gates.h"
#include "hip/matvec.h"
#include "hip/reduce.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {

constexpr int kPair = 2;  // rows of w

// Registers that the weights of one step of a pair take.
template <class T>
constexpr int kPairWords = kPair * static_cast<int>(sizeof(typename T::Raw)) / 4;

// Threads of a block, of which a multiprocessor holds one: fewer where a lane keeps more.
template <class T, int M>
constexpr int kMatvecThreads = kPairWords<T> * M <= 14 ? 1024 : 512;

// Steps of a pair whose loads are under way.
template <class T>
constexpr int kMatvecAhead = kPairWords<T> <= 32 ? 2 : 1;

struct MatvecArgs {
  const uint8_t* w;
  int64_t w_rows, row_bytes;
  int cols, out_cols;
  int pairs, pair_stride, pair_offset;  // pair p is rows p * pair_stride and that + pair_offset
  int parts;                            // waves that share a pair
  const void* x;
  const void* bias;
  DType bias_dtype, dtype;
  bool gated;
  Activation act;
  void* out;
};

// sums[m * kPair + r] += x[m] . the weights of one step of row r.
template <class T, int M>
__device__ __forceinline__ void add_step(const typename T::Raw (&raw)[kPair], int s,
                                         const LdsActivations<T, M>& x, const LdsTables<T>& tables,
                                         float (&sums)[M * kPair]) {
  using X = LdsActivations<T, M>;
  const int step = s % kSteps<T>;
  for_each_group<X::kUnits>([&](auto unit) {
    Group groups[kPair][T::kSpan];
#pragma unroll
    for (int r = 0; r < kPair; ++r) {
      for_each_group<T::kSpan>([&](auto g) {
        groups[r][g] = decode_group<T, unit * T::kSpan + g>(raw[r], step, tables);
      });
    }
#pragma unroll
    for (int m = 0; m < M; ++m) {
      int dots[kPair] = {kDotZero, kDotZero};
#pragma unroll
      for (int g = 0; g < T::kSpan; ++g) {
        const uint4 codes = x.codes_at(m, s, unit * T::kSpan + g);
#pragma unroll
        for (int r = 0; r < kPair; ++r) {
          const Group& group = groups[r][g];
          dots[r] = dot4(group.codes[0], static_cast<int>(codes.x), dots[r]);
          dots[r] = dot4(group.codes[1], static_cast<int>(codes.y), dots[r]);
          dots[r] = dot4(group.codes[2], static_cast<int>(codes.z), dots[r]);
          dots[r] = dot4(group.codes[3], static_cast<int>(codes.w), dots[r]);
        }
      }
      const typename X::Factor factor = x.factor_at(m, s, unit);
#pragma unroll
      for (int r = 0; r < kPair; ++r) {
        const Group& group = groups[r][0];
        const float dot = dot_value(dots[r]);
        float& sum = sums[m * kPair + r];
        if constexpr (T::kMins) {
          sum += group.scale * (factor.x * dot);
          sum += group.min * factor.y;
        } else if constexpr (T::kOffset != 0) {
          sum += group.scale * (factor.x * dot + factor.y);
        } else {
          sum += group.scale * (factor * dot);
        }
      }
    }
  });
}

// Stores what a pair of rows gives: `sum` is that of row lane % kPair and row lane / kPair of x.
template <int M>
__device__ __forceinline__ void store_pair(const MatvecArgs& args, int pair, int lane, float sum) {
  const int64_t m = lane / kPair, r = lane % kPair;
  const int64_t row = static_cast<int64_t>(pair) * args.pair_stride + r * args.pair_offset;
  const bool used = m < M && row < args.w_rows;
  if (used && args.bias) sum += load_as(args.bias_dtype, args.bias, row);
  const float other = wave_shuffle_xor(sum, 1);
  if (!used || (args.gated && r > 0)) return;
  if (args.gated) sum = activate(args.act, sum) * other;
  store_as(args.dtype, args.out, m * args.out_cols + row, sum);
}

// A place in the walk of a wave.
struct WalkPlace {
  int pair, chunk;  // chunk: as many steps as a wave has lanes
};

template <class T, class View, int M>
__global__ void __launch_bounds__((kMatvecThreads<T, M>), 1) matvec_kernel(MatvecArgs args) {
  using X = LdsActivations<T, M>;
  using Raw = typename T::Raw;
  constexpr int kAhead = kMatvecAhead<T>, kWaves = kMatvecThreads<T, M> / kWaveSize;
  extern __shared__ uint4 lds[];
  const int lane = threadIdx.x % kWaveSize, wave = wave_uniform(threadIdx.x / kWaveSize);
  const int steps = args.cols / (16 * T::kGroups), chunks = (steps + kWaveSize - 1) / kWaveSize;
  const int part = wave % args.parts, stride = static_cast<int>(gridDim.x) * (kWaves / args.parts);
  // Neighbouring pairs go to different blocks: a last round that is not full then loads all alike.
  WalkPlace at{wave / args.parts * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x),
               part};
  WalkPlace ahead = at;

  const auto next = [&](WalkPlace& place) {
    place.chunk += args.parts;
    if (place.chunk >= chunks) place = {place.pair + stride, part};
  };
  const auto load = [&](const WalkPlace& place, Raw(&raw)[kPair]) {
    const int64_t first = static_cast<int64_t>(place.pair) * args.pair_stride;
    int s = place.chunk * kWaveSize + lane;
    if (s >= steps) s = steps - 1;  // not used
#pragma unroll
    for (int r = 0; r < kPair; ++r) {
      int64_t row = first + r * args.pair_offset;
      if (row >= args.w_rows) row = args.w_rows - 1;  // not stored
      raw[r] =
          T::load(View(args.w, args.w_rows, args.row_bytes, row), s / kSteps<T>, s % kSteps<T>);
    }
  };

  Raw raw[kAhead][kPair];
#pragma unroll
  for (int a = 0; a < kAhead; ++a) {
    if (ahead.pair < args.pairs) load(ahead, raw[a]);
    next(ahead);
  }
  const X x(reinterpret_cast<uint8_t*>(lds), args.cols);
  auto* rest =
      reinterpret_cast<uint32_t*>(reinterpret_cast<uint8_t*>(lds) + X::bytes_for(args.cols));
  x.fill(args.dtype, args.x, args.cols);
  LdsTables<T>::fill(rest);
  __syncthreads();
  const LdsTables<T> tables(rest);

  constexpr int kSums = M * kPair;
  float sums[kSums] = {};
  while (at.pair < args.pairs) {
#pragma unroll
    for (int a = 0; a < kAhead; ++a) {
      if (kAhead > 1 && at.pair >= args.pairs) break;
      const int s = at.chunk * kWaveSize + lane;
      if (s < steps) add_step<T, M>(raw[a], s, x, tables, sums);
      if (ahead.pair < args.pairs) load(ahead, raw[a]);
      next(ahead);
      const int pair = at.pair;
      next(at);
      if (at.pair == pair || args.parts > 1) continue;
      store_pair<M>(args, pair, lane, wave_sums(sums, lane));
#pragma unroll
      for (float& sum : sums) sum = 0.0f;
    }
  }
  if (args.parts == 1) return;

  // Waves that share a pair: there is one round, and the first of them adds up.
  auto* shares = reinterpret_cast<float (*)[kSums]>(rest + LdsTables<T>::kWords);
  float sum = wave_sums(sums, lane);
  if (lane < kSums) shares[wave][lane] = sum;
  __syncthreads();
  const int pair = wave / args.parts * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  if (part != 0 || pair >= args.pairs) return;
  for (int p = 1; p < args.parts; ++p) sum += shares[wave + p][lane % kSums];
  store_pair<M>(args, pair, lane, sum);
}

// LDS of a block.
template <class T, int M>
constexpr int64_t matvec_lds_bytes(int cols) {
  constexpr int kMostWaves = kMatvecThreads<T, M> / 32;
  return LdsActivations<T, M>::bytes_for(cols) + 4 * LdsTables<T>::kWords +
         4 * kPair * M * kMostWaves;
}

template <class T, int M>
void launch_matvec(MatvecArgs args, int layout, Stream stream) {
  constexpr int kThreads = kMatvecThreads<T, M>;
  const auto kernel =
      layout == 0 ? matvec_kernel<T, FileView<T>, M> : matvec_kernel<T, PackedView<T>, M>;
  const int lanes = device_wave_size(), waves = kThreads / lanes;
  const int blocks = smaller(device_compute_units() * blocks_per_unit(kThreads), args.pairs);
  const int steps = args.cols / (16 * T::kGroups), chunks = (steps + lanes - 1) / lanes;
  // Few rows: as many waves to a pair as there are, where each has something to do.
  args.parts = 1;
  while (2 * args.parts <= waves && 2 * args.parts <= chunks &&
         int64_t{2} * args.parts * args.pairs <= int64_t{blocks} * waves) {
    args.parts *= 2;
  }
  const auto bytes = static_cast<int>(matvec_lds_bytes<T, M>(args.cols));
  allow_lds(kernel, bytes);
  kernel<<<static_cast<unsigned>(blocks), kThreads, bytes, static_cast<gpuStream_t>(stream)>>>(
      args);
}

template <class T>
void launch_passes(const MatvecCall& call, bool gated, Activation act) {
  const QuantMatrix& w = call.w;
  const int64_t half = w.rows / 2, size = call.dtype == DType::kFloat32 ? 4 : 2;
  MatvecArgs args{};
  args.w = w.data, args.w_rows = w.rows, args.row_bytes = w.row_bytes;
  args.cols = static_cast<int>(w.cols);
  args.pairs = static_cast<int>(gated ? half : (w.rows + 1) / 2);
  args.pair_stride = gated ? 1 : 2, args.pair_offset = gated ? static_cast<int>(half) : 1;
  args.bias = call.bias, args.bias_dtype = call.bias_dtype, args.dtype = call.dtype;
  args.gated = gated, args.act = act;
  args.out_cols = static_cast<int>(gated ? half : w.rows);
  const bool two = matvec_lds_bytes<T, 2>(args.cols) <= device_lds_bytes();
  for (int64_t m = 0; m < call.rows;) {
    args.x = static_cast<const char*>(call.x) + m * w.cols * size;
    args.out = static_cast<char*>(call.out) + m * args.out_cols * size;
    if (two && m + 2 <= call.rows) {
      launch_matvec<T, 2>(args, w.layout, call.stream);
      m += 2;
    } else {
      launch_matvec<T, 1>(args, w.layout, call.stream);
      m += 1;
    }
  }
}

template <class Types>
Status matvec_of(const MatvecCall& call, bool gated, Activation act) {
  with_type_of(Types{}, call.w.qtype,
               [&](auto type) { launch_passes<decltype(type)>(call, gated, act); });
  return launch_status();
}

}  // namespace rocmforge::gpu
