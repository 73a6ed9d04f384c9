// The tile kernel, a template over type, layout and rows of x; instances are in tile_*.hip.
//
// A wave multiplies 16 rows of w, or twice as many, by all rows of x of a chunk. A lane turns its
// weights into float16 in registers, where the matrix units take them; the order of k is the one in
// which the type's steps hold it. The waves of a block share its rows and their columns, and read x
// through LDS; partial sums meet there in a fixed order. Where rows alone give too few blocks,
// blocks share the columns, too: sums of each split of them go to memory, and another kernel adds
// them up.
#pragma once

#include "hip/convert.h"
#include "hip/dispatch.h"
#include "hip/gates.h"
#include "hip/mma.h"
#include "hip/quants/table.h"
#include "hip/tile_plan.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {

// Weights are multiplied by 2^kTileShift, which puts those of ordinary models (1e-5 to 100) in the
// middle of what float16 resolves. Types whose scales are powers of two, or whose blocks reach
// further up, need less.
template <class T>
constexpr int kTileShift = 4;
template <>
inline constexpr int kTileShift<Q6_K> = 2;
template <>
inline constexpr int kTileShift<IQ4_XS> = 2;
template <>
inline constexpr int kTileShift<MXFP4> = 0;
template <>
inline constexpr int kTileShift<NVFP4> = 0;

// Steps of a row whose loads a lane keeps under way: one where it takes many registers, or long.
template <class T>
constexpr int kTileAhead = sizeof(typename T::Raw) <= 24 && T::kGroups < 8 ? 2 : 1;

struct TileArgs {
  const uint8_t* w;
  int64_t w_rows, row_bytes;
  int64_t out_cols;  // rows of w, or half of them if one half gates the other
  int cols, x_rows;
  int row_waves;  // waves of a block side by side in rows; the others divide the columns
  const __half* x;
  float* split_sums;  // null if there is one split
  const float* factors;
  const void* bias;
  DType bias_dtype, dtype;
  void* out;
  bool gated;
  Activation act;
};

inline TileArgs tile_args(const TileCall& call, int row_waves) {
  const QuantMatrix& w = call.w;
  return {w.data,
          w.rows,
          w.row_bytes,
          call.gated ? w.rows / 2 : w.rows,
          static_cast<int>(w.cols),
          static_cast<int>(call.rows),
          row_waves,
          reinterpret_cast<const __half*>(call.x.values),
          call.splits.sums,
          call.x.factors,
          call.bias,
          call.bias_dtype,
          call.dtype,
          call.out,
          call.gated,
          call.act};
}

// Tiles of a product: 16 neighbours of w's rows each or, where one half gates the other, eight of
// either half.
inline int64_t tiles_of(const TileCall& call) {
  return call.gated ? (call.w.rows / 2 + 7) / 8 : (call.w.rows + 15) / 16;
}
__device__ __forceinline__ int64_t row_of_tile(const TileArgs& args, int64_t tile, int i) {
  const bool other = args.gated && i >= 8;
  const int64_t at = args.gated ? tile * 8 + i % 8 : tile * 16 + i;
  // Rows past the last are computed like it and left out.
  return (at < args.out_cols ? at : args.out_cols - 1) + (other ? args.out_cols : 0);
}

// scale * (code - offset) + min, zeros unless `inside`.
template <class T>
__device__ __forceinline__ Span<__half> half_values(const Group& group, bool inside) {
  // Types with an offset or a minimum have codes that are not negative.
  constexpr bool kSigned = T::kOffset == 0 && !T::kMins;
  constexpr float kPower = 1 << kTileShift<T>;
  const __half2 offset = __float2half2_rn(kHalfOfByte0 + (kSigned ? 128 : 0) + T::kOffset);
  const __half2 scale = __float2half2_rn(inside ? group.scale * kPower : 0.0f);
  [[maybe_unused]] __half2 min;
  if constexpr (T::kMins) min = __float2half2_rn(inside ? group.min * kPower : 0.0f);
  Span<__half> span;
  for_each_group<8>([&](auto pair) {
    uint32_t bytes = static_cast<uint32_t>(group.codes[pair / 2]);
    if constexpr (kSigned) bytes ^= 0x80808080u;
    const uint32_t halves = bytes_as_halves<pair % 2>(bytes);
    __half2 values = __hsub2(reinterpret_cast<const __half2&>(halves), offset);  // exact
    if constexpr (T::kMins) {
      values = __hfma2(values, scale, min);
    } else {
      values = __hmul2(values, scale);
    }
    span.words[pair] = reinterpret_cast<const uint32_t&>(values);
  });
  return span;
}

// Whether x passes through LDS. Eight rows of it stay in the cache: meeting at barriers costs more.
template <int kChunk>
constexpr bool kThroughLds = kChunk >= 16;

// Stages of x in LDS: one is used while the others are on their way. Where they wait in registers
// that is one.
constexpr int kTileBuffers = kCopiesAhead ? 4 : 2;

// Waves of a block that divide the columns, at most: LDS has to hold values of x for each.
template <int kChunk>
constexpr int kMostColumnWaves = kChunk < 16   ? 8
                                 : kChunk < 64 ? 4
                                               : 1;

// Spans of 16 rows of w that a wave multiplies by what it reads of x.
template <int kChunk>
constexpr int kWaveSpans = kChunk < 64 ? 1 : kTileWaveSpans;

// Spans of every row of x in a stage, at most: the more, the fewer barriers.
template <int kChunk>
constexpr int kStageSpans = kChunk < 64 || !kCopiesAhead ? 4 : 8;

// What a block keeps of x in LDS. The gap of a region keeps slots on banks of their own.
template <class T, int kChunk>
struct TileStages {
  static constexpr int kPhases = kTileAhead<T> * T::kGroups;
  static constexpr int kStage = smaller(kStageSpans<kChunk> / kSlots, kPhases);
  static constexpr int kRegion = 16 * kChunk + 16, kShare = kStage * kSlots * kRegion;  // halves
  static_assert(kPhases % kStage == 0);
  static constexpr int kParts = kMostColumnWaves<kChunk>;
  static constexpr int kPieces = kStage * kSlots * 2 * kChunk;  // of 16 bytes, to a part
  static constexpr int kThreads = kTileWaves * kWaveSize;
  static constexpr int kEach = (kPieces * kParts + kThreads - 1) / kThreads;
};

// Sums of a column in LDS: 16 rows, and room that puts neighbouring columns in other banks where
// there is LDS for it.
constexpr int kSumRows = kCopiesAhead ? 20 : 16;

// Stores what a block has summed of x's rows from `first_x` on, or what its split makes of it: in
// LDS, partial[part * tiles + tile][row of x][row of the tile], of `parts` to be added up. Both
// `tiles` and the threads are powers of two, and tiles have at most as many rows as there are
// threads.
template <class T, int kChunk>
__device__ __forceinline__ void store_tiles(const TileArgs& args,
                                            const float (*partial)[kChunk][kSumRows], int parts,
                                            int tiles, int64_t first_tile, int split,
                                            int64_t first_x, int x_rows) {
  const int outs = args.gated ? 8 : 16, width = tiles * outs;  // a thread's column stays the same
  const int n = static_cast<int>(threadIdx.x) % width, tile = n / outs, i = n % outs;
  const int64_t col = first_tile * outs + n;
  if (col >= args.out_cols) return;
  const auto sum_of = [&](int m, int row) {
    float sum = 0.0f;
    for (int p = 0; p < parts; ++p) sum += partial[p * tiles + tile][m][row];
    return sum * (1.0f / (1 << kTileShift<T>));
  };
  const auto shift_of = [&](int64_t row) {
    return args.bias ? load_as(args.bias_dtype, args.bias, row) : 0.0f;
  };
  const float shift = shift_of(col), other_shift = args.gated ? shift_of(col + args.out_cols) : 0;
  for (int m = static_cast<int>(threadIdx.x) / width; m < x_rows;
       m += static_cast<int>(blockDim.x) / width) {
    const int64_t x_row = first_x + m;
    const float sum = sum_of(m, i), other = args.gated ? sum_of(m, i + 8) : 0.0f;
    if (args.split_sums) {
      float* const to =
          args.split_sums + (split * int64_t{args.x_rows} + x_row) * args.w_rows + col;
      *to = sum;
      if (args.gated) to[args.out_cols] = other;
    } else {
      const float factor = args.factors[x_row];
      float value = sum * factor + shift;
      if (args.gated) value = activate(args.act, value) * (other * factor + other_shift);
      store_as(args.dtype, args.out, x_row * args.out_cols + col, value);
    }
  }
}

// LDS of a block, which stages of x have first, then sums. Host code does not know kSlots.
template <class T, int kChunk>
constexpr int tile_lds_bytes() {
  using X = TileStages<T, kChunk>;
  constexpr int kSumBytes = kTileWaves * kWaveSpans<kChunk> * kChunk * kSumRows * 4;
  constexpr int kStageBytes = X::kParts * kStageSpans<kChunk> * X::kRegion * 2;
  constexpr int kStaged = kThroughLds<kChunk> ? kTileBuffers * kStageBytes : 0;
  return kSumBytes > kStaged ? kSumBytes : kStaged;
}

template <class T, class View, int kChunk>
__global__ void __launch_bounds__(kTileWaves* kWaveSize, kChunk < 64 ? 0 : kTileUnitBlocks)
    tile_kernel(TileArgs args) {
  using X = TileStages<T, kChunk>;
  constexpr int kThreads = X::kThreads;
  constexpr int kHalves = kChunk < 16 ? 1 : kLaneRowsB;
  using Acc = TileOf<kHalves>;
  constexpr int kTiles = kChunk / Acc::kCols, kAhead = kTileAhead<T>;
  constexpr int kSpans = kWaveSpans<kChunk>;
  constexpr int kAtOnce = smaller(kChunk, kTileRowsAtOnce);
  const int lane = threadIdx.x % kWaveSize, wave = threadIdx.x / kWaveSize;
  const int row_waves = kMostColumnWaves<kChunk> > 1 ? args.row_waves : kTileWaves;
  const int column_waves = kTileWaves / row_waves;
  const int part = wave / row_waves;  // of the columns
  // Neighbouring blocks take the chunks of x for the same rows of w, which memory then gives once.
  const int chunks = (args.x_rows + kChunk - 1) / kChunk, block = static_cast<int>(blockIdx.x);
  const int64_t block_tile = static_cast<int64_t>(block / chunks) * row_waves * kSpans;
  const int chunk = block % chunks, left = args.x_rows - chunk * kChunk;
  const int x_rows = left < kChunk ? left : kChunk;
  const int read_rows = (x_rows + kAtOnce - 1) / kAtOnce * kAtOnce;
  const int all_steps = args.cols / (16 * T::kGroups), turns_apart = column_waves * kAhead;
  const int all_turns = (all_steps + kSlots - 1) / kSlots;
  const int splits = static_cast<int>(gridDim.y), split = static_cast<int>(blockIdx.y);
  const int split_turns = (all_turns + splits - 1) / splits, first_turn = split * split_turns;
  const int turns = smaller(all_turns, first_turn + split_turns);
  const int steps = smaller(all_steps, turns * kSlots);

  int64_t rows[kSpans][kLaneRowsA];
#pragma unroll
  for (int r = 0; r < kSpans; ++r) {
#pragma unroll
    for (int i = 0; i < kLaneRowsA; ++i) {
      const int64_t tile = block_tile + wave % row_waves * kSpans + r;
      rows[r][i] = row_of_tile(args, tile, row_of_a(lane, i));
    }
  }
  // Steps past the last of the split are read like it and multiplied by 0.
  const auto step_of = [&](int turn, int slot) {
    const int step = turn * kSlots + slot;
    return step < steps ? step : steps - 1;
  };
  typename T::Raw raw[kAhead][kSpans][kLaneRowsA];
  const auto load = [&](int turn, typename T::Raw(&to)[kSpans][kLaneRowsA]) {
    const int s = step_of(turn, slot(lane));
#pragma unroll
    for (int r = 0; r < kSpans; ++r) {
#pragma unroll
      for (int i = 0; i < kLaneRowsA; ++i) {
        const View view(args.w, args.w_rows, args.row_bytes, rows[r][i]);
        to[r][i] = T::load(view, s / kSteps<T>, s % kSteps<T>);
      }
    }
  };

  // x passes through LDS, for all waves of the block: [buffer][part][phase][slot], of which each is
  // a span of every row. A phase is a group of a turn.
  constexpr int kPhases = X::kPhases, kStage = X::kStage;
  extern __shared__ uint4 memory[];
  __half* const staged = reinterpret_cast<__half*>(memory);
  const __half* const x = args.x + static_cast<int64_t>(chunk) * args.cols * kChunk;
  LdsCopy pieces[X::kEach] = {};
  const auto each_piece = [&](auto body) {
    // Of all pieces of a thread the row and the half of the span are the same.
    constexpr int kPlaces = X::kStage * kSlots, kApart = kThreads / (2 * kChunk);
    const int thread = static_cast<int>(threadIdx.x), row = thread % kChunk;
    if (row >= read_rows) return;
#pragma unroll
    for (int j = 0; j < X::kEach; ++j) {
      const int place = j * kApart + thread / (2 * kChunk);
      if (place < kPlaces * column_waves) {
        body(pieces[j], place / kPlaces, place % kPlaces, thread / kChunk % 2, row);
      }
    }
  };
  const auto place_of = [&](int buffer, int of_part, int place, int half, int row) {
    const int at = (buffer * X::kParts + of_part) * X::kShare + place * X::kRegion;
    return staged + at + 8 * half * kChunk + 8 * row;
  };
  // The stage that begins `phases` after the first of turn `at`.
  const auto fetch = [&](int at, int phases, int buffer) {
    at += phases / kPhases * turns_apart;
    each_piece([&](LdsCopy& piece, int of_part, int place, int half, int row) {
      const int phase = phases % kPhases + place / kSlots, g = phase % T::kGroups;
      const int turn = at + of_part * kAhead + phase / T::kGroups;
      const int s = step_of(turn, place % kSlots);
      const int apart = T::template first<1>(0) - T::template first<0>(0);
      const int k = s / kSteps<T> * T::kBlock + T::template first<0>(s % kSteps<T>) + g * apart;
      piece.fetch(x + (k + kHalfApart<T> * half) * kChunk + 8 * row,
                  place_of(buffer, of_part, place, half, row));
    });
    close_copies();
  };
  const auto land = [&](int buffer) {
    each_piece([&](const LdsCopy& piece, int of_part, int place, int half, int row) {
      piece.land(place_of(buffer, of_part, place, half, row));
    });
  };

  Acc sums[kSpans][kTiles] = {};
#pragma unroll
  for (int a = 0; a < kAhead; ++a) load(first_turn + part * kAhead + a, raw[a]);
  // Before the kernel that writes x could start, no other was left that writes weights.
  follow_previous();
  constexpr int kBehind = kTileBuffers - 1;  // stages on their way while one is used
  if constexpr (kThroughLds<kChunk>) {
#pragma unroll
    for (int stage = 0; stage < kBehind; ++stage) fetch(first_turn, stage * kStage, stage);
    if constexpr (!kCopiesAhead) land(0);
  }
  int buffer = 0;
  for (int at = first_turn; at < turns; at += turns_apart) {
    for_each_group<kPhases>([&](auto phase) {
      constexpr int a = phase / T::kGroups, g = phase % T::kGroups;
      if constexpr (kThroughLds<kChunk> && phase % kStage == 0) {
        await_copies<kBehind - 1>();
        __syncthreads();  // the stage is there, and nobody uses the one before any more
        fetch(at, phase + kBehind * kStage, (buffer + kBehind) % kTileBuffers);
      }
      const int turn = at + part * kAhead + a;
      const bool inside = turn * kSlots + slot(lane) < steps;
      const int s = step_of(turn, slot(lane)), step = s % kSteps<T>;
      Span<__half> weights[kSpans][kLaneRowsA];
#pragma unroll
      for (int r = 0; r < kSpans; ++r) {
#pragma unroll
        for (int i = 0; i < kLaneRowsA; ++i) {
          weights[r][i] = half_values<T>(T::template decode<g>(raw[a][r][i], step), inside);
        }
      }
      if constexpr (g == T::kGroups - 1) load(turn + turns_apart, raw[a]);
      const __half* from = nullptr;
      if constexpr (kThroughLds<kChunk>) {
        from = staged + (buffer * X::kParts + part) * X::kShare +
               (phase % kStage * kSlots + slot(lane)) * X::kRegion;
      } else {
        from = x + (s / kSteps<T> * T::kBlock + T::template first<g>(step)) * kChunk;
      }
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        if (t > 0 && t * Acc::kCols % kAtOnce == 0 && t * Acc::kCols >= x_rows) break;
        Span<__half> values[kHalves];
#pragma unroll
        for (int j = 0; j < kHalves; ++j) {
          constexpr int apart = kThroughLds<kChunk> ? 8 : kHalfApart<T>;
          values[j] = load_halves(from + 8 * (t * Acc::kCols + row_of_b(lane, j)), apart * kChunk);
        }
#pragma unroll
        for (int r = 0; r < kSpans; ++r) mma(sums[r][t], weights[r], values);
      }
      if constexpr (kThroughLds<kChunk> && (phase + 1) % kStage == 0) {
        buffer = (buffer + 1) % kTileBuffers;
        if constexpr (!kCopiesAhead) land(buffer);
      }
    });
  }

  if constexpr (kThroughLds<kChunk>) {
    await_copies<0>();
    __syncthreads();  // sums take the place of x
  }
  auto* const partial = reinterpret_cast<float (*)[kChunk][kSumRows]>(memory);  // of spans
#pragma unroll
  for (int r = 0; r < kSpans; ++r) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
#pragma unroll
      for (int e = 0; e < Acc::kElements; ++e) {
        partial[wave * kSpans + r][t * Acc::kCols + acc_col(lane, e)][acc_row(lane, e)] =
            sums[r][t].values[e];
      }
    }
  }
  __syncthreads();
  store_tiles<T, kChunk>(args, partial, column_waves, row_waves * kSpans, block_tile, split,
                         static_cast<int64_t>(chunk) * kChunk, x_rows);
}

// Waves of a block side by side in rows: as many as leave every compute unit some blocks, since
// what is read of x serves them all.
template <int kChunk>
int row_waves_for(int64_t tiles) {
  constexpr int kBlocks = kChunk < 16 ? 6 : 3;
  const int64_t blocks = kBlocks * int64_t{device_compute_units()};
  int waves = kTileWaves / kMostColumnWaves<kChunk>;
  while (2 * waves <= kTileWaves && tiles / (2 * waves) >= blocks) waves *= 2;
  return waves;
}

template <class T, int kChunk>
void launch_tile(const TileCall& call) {
  const QuantMatrix& w = call.w;
  const int64_t chunks = (call.rows + kChunk - 1) / kChunk;
  const int64_t tiles = tiles_of(call);
  const int row_waves = row_waves_for<kChunk>(tiles * chunks);
  const int block_tiles = kWaveSpans<kChunk> * row_waves;
  const dim3 grid(static_cast<unsigned>((tiles + block_tiles - 1) / block_tiles * chunks),
                  static_cast<unsigned>(call.splits.count));
  const auto kernel =
      w.layout == 0 ? tile_kernel<T, FileView<T>, kChunk> : tile_kernel<T, PackedView<T>, kChunk>;
  constexpr int kLds = tile_lds_bytes<T, kChunk>();
  allow_lds(kernel, kLds);
  launch_early(kernel, grid, dim3(static_cast<unsigned>(kTileWaves * device_wave_size())), kLds,
               static_cast<gpuStream_t>(call.stream), tile_args(call, row_waves));
}

}  // namespace rocmforge::gpu
