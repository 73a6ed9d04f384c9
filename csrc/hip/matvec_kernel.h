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
#include "hip/matvec_rows.h"
#include "hip/quants/supply.h"
#include "hip/reduce.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {

// Registers that a step of a pair takes, about.
template <class T, class View>
constexpr int kStepRegisters =
    kPair * static_cast<int>(sizeof(typename T::Raw)) / 4 + (loads_are_whole<T, View>() ? 0 : 4);

template <class T>
using MatvecTables = std::conditional_t<kPaired<T>, PairedLevels<T>, LdsTables<T, true>>;

template <class T>
constexpr bool kHasTables = LdsTables<T>::kWords > 0;

template <class T>
constexpr int kChunkBytes = kWaveSize / kSteps<T> * T::kBytes;

// A stage is 1 KiB of a row or more where it is copied, or less, so that tables have room beside as
// many waves, and no more than 4096 weights. Where it waits in registers it is one step of a lane,
// or two small ones: the compiler waits for a stage as a whole.
template <class T>
constexpr int kStageChunks =
    kCopiesAhead ? (T::kGroups < 8 && kChunkBytes<T> < (kHasTables<T> ? 768 : 1024) ? 2 : 1)
                 : (!kHasTables<T> && sizeof(typename T::Raw) <= 20 ? 2 : 1);

// Stages that are on their way: one more of small ones.
template <class T, class View>
constexpr int kMatvecAhead = kCopiesAhead ? (kStageChunks<T> * kChunkBytes<T> < 640 ? 4 : 3)
                             : kStageChunks<T> == 2                            ? 2
                             : kStepRegisters<T, View> <= 14 && !kHasTables<T> ? 4
                             : kStepRegisters<T, View> <= 32                   ? 2
                                                                               : 1;

template <class T, class View>
using MatvecSupply = Supply<T, View, kMatvecAhead<T, View>, kStageChunks<T>>;

// Most threads of a block, of which a multiprocessor holds one. More cost more at the start; where
// steps wait in registers, look-ups need them to hide what they wait for, as far as those go.
template <class T, class View, int M>
constexpr int kMatvecThreads = kCopiesAhead                                               ? 512
                               : kHasTables<T> && M == 1 && kStepRegisters<T, View> <= 10 ? 1024
                               : kHasTables<T> && M == 1 && kStepRegisters<T, View> <= 16 ? 768
                               : T::kGroups == 8 && kStepRegisters<T, View> >= 28         ? 384
                                                                                          : 512;

struct MatvecArgs {
  const uint8_t* w;
  int w_rows, row_bytes;
  int cols, out_cols;
  int pairs, pair_stride, pair_offset;  // pair p is rows p * pair_stride and that + pair_offset
  int parts_log2;                       // of the waves that share a pair
  const void* x;
  const void* bias;
  DType bias_dtype, dtype;
  bool gated, weights_at_rest;
  int early_mask;  // of the bits that a wave's number must not have to ask for weights at once
  Activation act;
  void* out;
};

// sums[m * kPair + r] += x[m] . the weights of a lane's step of a chunk of row r.
//
// A weight with a minimum is scale * (code - centre) + (min + scale * centre). The second part is
// large and the same for a whole unit: it is multiplied by the sum of x as it is, not as it was
// rounded, so that rounding only meets the first, which goes up and down. Expanded:
//   scale * (dot + centre * (sum of x - sum of rounded x)) + min * sum of x.
template <class T, int M>
__device__ __forceinline__ void add_step(const typename T::Raw (&raw)[kPair], int chunk, int lane,
                                         const LdsActivations<T, M>& x,
                                         const MatvecTables<T>& tables, float (&sums)[M * kPair]) {
  using X = LdsActivations<T, M>;
  const int step = lane % kSteps<T>;
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
      if constexpr (kHasDot<T>) {
        const uint4 low = x.codes_at(m, chunk, lane, 2 * unit);
        const uint4 high = x.codes_at(m, chunk, lane, 2 * unit + 1);
#pragma unroll
        for (int r = 0; r < kPair; ++r) dots[r] = T::template dot<unit>(raw[r], low, high);
      } else {
#pragma unroll
        for (int g = 0; g < T::kSpan; ++g) {
          const uint4 codes = x.codes_at(m, chunk, lane, unit * T::kSpan + g);
#pragma unroll
          for (int r = 0; r < kPair; ++r) {
            if constexpr (kPaired<T>) {
              const uint32_t* bytes = raw[r].codes + 2 * (unit * T::kSpan + g);
              dots[r] = tables.dot(bytes[0], codes.x, codes.y, dots[r]);
              dots[r] = tables.dot(bytes[1], codes.z, codes.w, dots[r]);
              continue;
            }
            const Group& group = groups[r][g];
            dots[r] = dot4(group.codes[0], static_cast<int>(codes.x), dots[r]);
            dots[r] = dot4(group.codes[1], static_cast<int>(codes.y), dots[r]);
            dots[r] = dot4(group.codes[2], static_cast<int>(codes.z), dots[r]);
            dots[r] = dot4(group.codes[3], static_cast<int>(codes.w), dots[r]);
          }
        }
      }
      const typename X::Factor factor = x.factor_at(m, chunk, lane, unit);
#pragma unroll
      for (int r = 0; r < kPair; ++r) {
        const Group& group = groups[r][0];
        const float dot = dot_value(dots[r]);
        float& sum = sums[m * kPair + r];
        if constexpr (T::kMins) {
          sum += group.scale * (factor.x * dot + x.residual_at(m, chunk, lane, unit));
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

// Sums of a pair of rows that are complete: lane l stores that of row l / kPair of x and row
// l % kPair of the pair.
template <int M>
__device__ __forceinline__ void store_pair(const MatvecArgs& args, int pair, int lane, float sum) {
  const int m = M == 1 ? 0 : lane / kPair, r = lane % kPair;
  const int row = pair * args.pair_stride + r * args.pair_offset;
  const bool used = lane < M * kPair && row < args.w_rows;
  if (used && args.bias) sum += load_as(args.bias_dtype, args.bias, row);
  if (args.gated) {
    const float other = wave_shuffle_xor(sum, 1);
    if (r > 0) return;
    if (used) sum = activate(args.act, sum) * other;
  }
  if (!used) return;
  store_as(args.dtype, args.out, static_cast<int64_t>(m) * args.out_cols + row, sum);
}

template <class T, class View, int M, class Rows>
__device__ __forceinline__ void multiply_rows(const MatvecArgs& args, Rows rows) {
  using X = LdsActivations<T, M>;
  constexpr int kAhead = kMatvecAhead<T, View>, kChunks = kStageChunks<T>;
  extern __shared__ __align__(128) uint4 lds[];
  const int lane = threadIdx.x % kWaveSize, wave = wave_uniform(threadIdx.x / kWaveSize);
  const int waves = static_cast<int>(blockDim.x) / kWaveSize;
  const int steps = args.cols / (16 * T::kGroups);
  const int stages = (steps + kChunks * kWaveSize - 1) / (kChunks * kWaveSize);
  const int parts = 1 << args.parts_log2, part = wave & (parts - 1), team = wave >> args.parts_log2;
  const int stride = static_cast<int>(gridDim.x) * (waves >> args.parts_log2);
  // Neighbouring pairs go to different blocks: a last round that is not full then loads all alike.
  WalkPlace at{team * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x), part};
  WalkPlace ahead = at;

  const auto next = [&](WalkPlace& place) {
    place.stage += parts;
    if (place.stage >= stages) place = {place.pair + stride, part};
  };
  const auto view_of = [&](int pair, int r) {
    const int row = pair * args.pair_stride + r * args.pair_offset;
    // An odd last row is computed twice rather than branched around.
    return View(args.w, args.w_rows, args.row_bytes, row < args.w_rows ? row : args.w_rows - 1);
  };
  // The same of rows that are not read, but have been.
  const auto place_of = [&](int pair, int r) {
    return View(args.w, args.w_rows, args.row_bytes,
                pair * args.pair_stride + r * args.pair_offset);
  };
  // LDS: tables, which have to be first; what supplies the waves, x, and what waves that share a
  // pair tell each other.
  auto* const table_words = reinterpret_cast<uint32_t*>(lds);
  auto* rest = reinterpret_cast<uint8_t*>(lds) + kTableBytes<MatvecTables<T>>;
  MatvecSupply<T, View> supply(rest, wave, lane, View(args.w, args.w_rows, args.row_bytes, 0));
  rest += waves * MatvecSupply<T, View>::bytes_per_wave();
  const auto load = [&](int a) {
    if (ahead.pair < args.pairs) {
      supply.load(a, ahead, steps, lane, view_of);
    } else {
      supply.skip(a);
    }
    next(ahead);
  };
  // Some weights may come while the kernel before still runs. Otherwise x goes first, since it is
  // waited for first.
  const bool begun = kStartsEarly && args.weights_at_rest && (wave & args.early_mask) == 0;
  if (begun) load(0);
  MatvecTables<T>::fill(table_words);  // behind all weights its words would be waited for longest
  const typename X::Place first_place = X::first_place();
  follow_previous();
  typename Rows::Loaded loaded[Rows::kFetched];
  X::fetch(rows, args.cols, loaded);
#pragma unroll(kCopiesAhead ? 1 : kAhead)
  for (int a = begun; a < kAhead; ++a) load(a);

  rest = lds_address(rest);
  const X x(rest, args.cols);
  x.fill(rows, args.cols, first_place, loaded);
  constexpr int kSums = M * kPair;
  auto* shares = reinterpret_cast<float (*)[kSums]>(rest + X::bytes_for(args.cols));
  [[maybe_unused]] float* const squares = shares[waves];  // [waves]
  if constexpr (Rows::kNorms) {
    const float own = wave_sum(rows.squares);
    if (lane == 0) squares[wave] = own;
  }
  __syncthreads();
  const MatvecTables<T> tables(table_words);
  [[maybe_unused]] float factor = 1.0f;
  if constexpr (Rows::kNorms) {
    const float sum = wave_sum(lane < waves ? squares[lane] : 0.0f);
    factor = rsqrtf(sum / static_cast<float>(args.cols) + rows.norm.eps);
  }

  float sums[kSums] = {};
  const auto finish = [&](int pair, float sum) {
    if constexpr (Rows::kNorms) sum *= factor;
    store_pair<M>(args, pair, lane, sum);
  };
  const auto work = [&](int a) {
    if (at.pair >= args.pairs) return;
    supply.wait(a);
    const auto opened = supply.open(a, at, lane, place_of);
    const int first = at.stage * kChunks;
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      if ((first + c) * kWaveSize + lane >= steps) continue;
      typename T::Raw raw[kPair];
      opened.take(c, raw);
      add_step<T, M>(raw, first + c, lane, x, tables, sums);
    }
    load(a);
    const int pair = at.pair;
    next(at);
    if (at.pair == pair || parts > 1) return;
    finish(pair, wave_sums(sums, lane));
#pragma unroll
    for (float& sum : sums) sum = 0.0f;
  };
  if constexpr (kCopiesAhead) {
    // Places in LDS need no code of their own, and code that is not in a cache is waited for.
    int a = 0;
#pragma unroll 1
    while (at.pair < args.pairs) {
      work(a);
      a = a + 1 == kAhead ? 0 : a + 1;
    }
  } else {
    while (at.pair < args.pairs) for_each_group<kAhead>(work);
  }
  if (parts == 1) return;

  // Waves that share a pair: there is one round, and the first of them adds up.
  float sum = wave_sums(sums, lane);
  if (lane < kSums) shares[wave][lane] = sum;
  __syncthreads();
  const int pair = team * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  if (part != 0 || pair >= args.pairs) return;
  for (int p = 1; p < parts; ++p) sum += shares[wave + p][lane % kSums];
  finish(pair, sum);
}

template <class T, class View, int M>
__global__ void __launch_bounds__((kMatvecThreads<T, View, M>), 1) matvec_kernel(MatvecArgs args) {
  multiply_rows<T, View, M>(args, PlainRows<M>{args.dtype, args.x});
}

template <class T, class View, int M>
__global__ void __launch_bounds__((kMatvecThreads<T, View, M>), 1)
    normed_matvec_kernel(MatvecArgs args, InputNorm norm) {
  const NormedRow row = {args.dtype, args.x, norm, blockIdx.x == 0, 0.0f};
  multiply_rows<T, View, M>(args, row);
}

// LDS of a block of so many waves. A norm takes 4 bytes a wave more, for all that is known here.
template <class T, class View, int M>
constexpr int64_t matvec_lds_bytes(int cols, int waves) {
  return LdsActivations<T, M>::bytes_for(cols) + kTableBytes<MatvecTables<T>> +
         waves * (MatvecSupply<T, View>::bytes_per_wave() + 4 * kPair * M + 4);
}

// Threads of a block: fewer than the most where long rows leave no LDS for more.
template <class T, class View, int M>
int matvec_threads(int cols) {
  const int lanes = device_wave_size(), lds = device_lds_bytes();
  int threads = kMatvecThreads<T, View, M>;
  while (threads > 64 && matvec_lds_bytes<T, View, M>(cols, threads / lanes) > lds) threads /= 2;
  return threads;
}

template <class T, class View, int M>
void launch_view(MatvecArgs args, const InputNorm* norm, Stream stream) {
  const int threads = matvec_threads<T, View, M>(args.cols);
  const int lanes = device_wave_size(), waves = threads / lanes;
  const int units = device_compute_units();
  const int blocks = smaller(units * blocks_per_unit(threads), args.pairs);
  const int steps = args.cols / (16 * T::kGroups), span = kStageChunks<T> * lanes;
  const int stages = (steps + span - 1) / span;
  // Few rows: as many waves to a pair as there are, where each has something to do; as many in both
  // layouts, so that they give the same bits.
  const int shared_waves = smaller(matvec_threads<T, FileView<T>, M>(args.cols),
                                   matvec_threads<T, PackedView<T>, M>(args.cols)) /
                           lanes;
  args.parts_log2 = 0;
  for (int parts = 2; waves % parts == 0 && shared_waves % parts == 0 && parts <= stages &&
                      int64_t{parts} * args.pairs <= int64_t{units} * shared_waves;
       parts *= 2) {
    ++args.parts_log2;
  }
  // Half of all that there is, asked for at once, would keep x waiting.
  args.early_mask = stages <= 2 && args.pairs <= waves * blocks ? 1 : 0;
  const auto bytes = static_cast<int>(matvec_lds_bytes<T, View, M>(args.cols, waves));
  const auto launch = [&](auto kernel, const auto&... arguments) {
    allow_lds(kernel, bytes);
    launch_early(kernel, static_cast<unsigned>(blocks), threads, bytes,
                 static_cast<gpuStream_t>(stream), arguments...);
  };
  if constexpr (M == 1 && std::is_same_v<View, PackedView<T>>) {
    if (norm) return launch(normed_matvec_kernel<T, View, M>, args, *norm);
  }
  launch(matvec_kernel<T, View, M>, args);
}

template <class T, class View, int M>
bool fits(int cols) {
  constexpr int kFewestWaves = 4;
  return matvec_lds_bytes<T, View, M>(cols, kFewestWaves) <= device_lds_bytes();
}

template <class T, int M>
void launch_matvec(const MatvecArgs& args, const InputNorm* norm, int layout, Stream stream) {
  layout == 0 ? launch_view<T, FileView<T>, M>(args, norm, stream)
              : launch_view<T, PackedView<T>, M>(args, norm, stream);
}

template <class T>
void launch_passes(const MatvecCall& call, bool gated, Activation act, const InputNorm* norm) {
  const QuantMatrix& w = call.w;
  const int64_t half = w.rows / 2, size = call.dtype == DType::kFloat32 ? 4 : 2;
  MatvecArgs args{};
  args.w = w.data, args.w_rows = static_cast<int>(w.rows);
  args.row_bytes = static_cast<int>(w.row_bytes);
  args.cols = static_cast<int>(w.cols);
  args.pairs = static_cast<int>(gated ? half : (w.rows + 1) / 2);
  args.pair_stride = gated ? 1 : 2, args.pair_offset = gated ? static_cast<int>(half) : 1;
  args.bias = call.bias, args.bias_dtype = call.bias_dtype, args.dtype = call.dtype;
  args.gated = gated, args.act = act, args.weights_at_rest = call.weights_at_rest;
  args.out_cols = static_cast<int>(gated ? half : w.rows);
  const bool two =
      w.layout == 0 ? fits<T, FileView<T>, 2>(args.cols) : fits<T, PackedView<T>, 2>(args.cols);
  for (int64_t m = 0; m < call.rows;) {
    args.x = static_cast<const char*>(call.x) + m * w.cols * size;
    args.out = static_cast<char*>(call.out) + m * args.out_cols * size;
    if (two && m + 2 <= call.rows) {
      launch_matvec<T, 2>(args, norm, w.layout, call.stream);
      m += 2;
    } else {
      launch_matvec<T, 1>(args, norm, w.layout, call.stream);
      m += 1;
    }
  }
}

template <class Types>
Status matvec_of(const MatvecCall& call, bool gated, Activation act, const InputNorm* norm) {
  with_type_of(Types{}, call.w.qtype,
               [&](auto type) { launch_passes<decltype(type)>(call, gated, act, norm); });
  return launch_status();
}

}  // namespace rocmforge::gpu
