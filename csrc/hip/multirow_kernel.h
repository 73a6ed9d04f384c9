// The multirow kernel, a template over type, layout and rows of x; instances are in multirow_*.hip.
//
// A first kernel rounds x to 8 bits, and may norm it before (multirow_input.h). Then as many blocks
// as the card holds at once share the rows of w, 16 to a tile. Each has x in LDS, whole or by
// phases if it is long. A tile goes by stages of some columns, whose weights are loaded while
// earlier ones are being used. The stages of all tiles of a pass stand in a row that the waves of a
// block divide evenly, so that a wave has some tiles alone and the first and the last with others;
// only at the end of the pass, when all sums are in LDS, do waves meet, and sums of a tile are
// added up in a fixed order. Sums in 32-bit integers go over a unit, what has a scale of its own.
//
// Where blocks can read each other's LDS, those of a cluster have the same tiles, and each takes
// some of the phases of a long x.
#pragma once

#include "hip/gates.h"
#include "hip/multirow.h"
#include "hip/multirow_supply.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {

struct MultirowArgs {
  const uint8_t* w;
  int w_rows, row_bytes, cols;
  int tiles, tile_stride, tile_offset;  // row i of tile t is t * stride + i % 8 + i / 8 * offset
  int round_tiles;                      // of a block, whose tiles take rounds
  int phases, phase_stages;             // of x; in each
  int cluster;                          // blocks that share the phases
  const uint8_t* x;                     // bodies
  const float* squares;                 // [kCols, square_parts] of rows that are normed, or null
  int square_parts;
  float eps;
  int x_rows, out_cols;
  const void* bias;
  DType bias_dtype, dtype;
  bool gated;
  Activation act;
  void* out;
};

// Values that are read at once.
template <typename Value, int N>
struct alignas(N * sizeof(Value) < 16 ? N * sizeof(Value) : 16) Pack {
  Value values[N];
};

// The scale of a unit of weights, with minima that, too.
template <class T>
using UnitScale = std::conditional_t<T::kMins, float2, float>;

// LDS of a wave, behind what supplies it: scales [units of a stage][16 rows]. What it sums of a
// tile for others to read: [kCols][kShareRows].
constexpr int kSpanBytes = 2 * sizeof(int2);  // of a tile in a pass and in the one before
constexpr int kShareRows = 20;  // 16, and lanes of different columns in different banks
template <class T>
constexpr int kScaleBytes = Stage<T>::kUnits * kTileRowsA * static_cast<int>(sizeof(UnitScale<T>));
template <int kCols>
constexpr int kShareFloats = kCols * kShareRows;

// The products of a wave: sums of a lane's rows and columns.
template <class T, int kCols>
struct TileSums {
  using B = Body<T, kCols>;
  using S = Stage<T>;
  using Acc = IntTile<kCols>;
  static constexpr int kLaneCols = Acc::kLaneCols, kPack = kLaneCols < 2 ? 1 : 2;
  float values[kAccRows][kLaneCols];

  // The first of a lane's columns that stand side by side.
  static __device__ __forceinline__ int col_of(int lane, int pack) {
    return acc_col(lane, Acc::at(0, kPack * pack)) % kCols;
  }

  // Adds a unit's products; `x` is the body. See add_step in matvec_kernel.h for the arithmetic.
  template <int kUnit>
  __device__ __forceinline__ void add(const Acc& dots, const uint8_t* x,
                                      const UnitScale<T>* unit_scales, int lane) {
    using Factor = typename B::Factor;
    const auto scales =
        *reinterpret_cast<const Pack<UnitScale<T>, kAccRows>*>(unit_scales + acc_rows_from(lane));
#pragma unroll
    for (int p = 0; p < kLaneCols / kPack; ++p) {
      const int first = kUnit * kCols + col_of(lane, p);
      const auto factors = *reinterpret_cast<const Pack<Factor, kPack>*>(
          reinterpret_cast<const Factor*>(x + B::kFactors) + first);
      Pack<float, kPack> residuals;
      if constexpr (T::kMins) {
        residuals = *reinterpret_cast<const Pack<float, kPack>*>(
            reinterpret_cast<const float*>(x + B::kResiduals) + first);
      }
#pragma unroll
      for (int c = 0; c < kPack; ++c) {
        const Factor& factor = factors.values[c];
#pragma unroll
        for (int r = 0; r < kAccRows; ++r) {
          const int j = p * kPack + c;
          const float dot = dot_value(dots.values[Acc::at(r, j)]);
          float& sum = values[r][j];
          if constexpr (T::kMins) {
            sum += scales.values[r].x * (factor.x * dot + residuals.values[c]);
            sum += scales.values[r].y * factor.y;
          } else if constexpr (T::kOffset != 0) {
            sum += scales.values[r] * (factor.x * dot + factor.y);
          } else {
            sum += scales.values[r] * (factor * dot);
          }
        }
      }
    }
  }

  // Adds a body; `first_step` of a block of weights is what the stage begins with.
  template <int kBody>
  __device__ __forceinline__ void add_body(const TakenSteps<T>& raw, int first_step,
                                           const uint8_t* x, const UnitScale<T>* scales, int lane,
                                           const LdsTables<T>& tables) {
    // Words of x for the lane: [part][group].
    uint32_t words[Acc::kParts][B::kGroups][kLaneWords];
#pragma unroll
    for (int p = 0; p < Acc::kParts; ++p) {
#pragma unroll
      for (int g = 0; g < B::kGroups; g += kSlots) {
        const uint4 four =
            reinterpret_cast<const uint4*>(x)[g / kSlots * kCols * kSlots + b_lane<kCols>(lane, p)];
        const uint32_t read[] = {four.x, four.y, four.z, four.w};
#pragma unroll
        for (int i = 0; i < 4; ++i) words[p][g + i / kLaneWords][i % kLaneWords] = read[i];
      }
    }
    // Units of a step, one after the other; where lanes exchange steps, all that were exchanged.
    constexpr int kStepUnits = T::kGroups / T::kSpan;
    for_each_group<S::kTaken * kStepUnits>([&](auto turn) {
      constexpr int q = turn / kStepUnits, u = turn % kStepUnits;
      constexpr int kExchanged = kWordwise<T> ? 1 : kSlots;
      const int step = (first_step + kBody * B::kSteps + S::taken(lane, q)) % kSteps<T>;
      uint32_t weights[kExchanged][kLaneRowsA][T::kSpan * kLaneWords];
#pragma unroll
      for (int i = 0; i < kLaneRowsA; ++i) {
        for_each_group<T::kSpan>([&](auto g) {
          const Group group = decode_group<T, u * T::kSpan + g>(raw[q][i], step, tables);
          if constexpr (kWordwise<T>) {
#pragma unroll
            for (int w = 0; w < kLaneWords; ++w) {
              weights[0][i][g * kLaneWords + w] = static_cast<uint32_t>(group.codes[w]);
            }
          } else {
            uint32_t slices[kSlots][kLaneWords];
            exchange_slices(lane, group.codes, slices);
#pragma unroll
            for (int n = 0; n < kSlots; ++n) {
#pragma unroll
              for (int w = 0; w < kLaneWords; ++w) {
                weights[n][i][g * kLaneWords + w] = slices[n][w];
              }
            }
          }
        });
      }
      for_each_group<kExchanged>([&](auto n) {
        constexpr int kUnit = (q * kExchanged + n) * kStepUnits + u;
        uint32_t of_x[Acc::kParts][T::kSpan * kLaneWords];
#pragma unroll
        for (int p = 0; p < Acc::kParts; ++p) {
#pragma unroll
          for (int i = 0; i < T::kSpan * kLaneWords; ++i) {
            of_x[p][i] = words[p][kUnit * T::kSpan + i / kLaneWords][i % kLaneWords];
          }
        }
        Acc dots;
        mma<T::kSpan>(dots, weights[n], of_x);
        add<kUnit>(dots, x, scales + (kBody * B::kUnits + kUnit) * kTileRowsA, lane);
      });
    });
  }

  // [kCols][kShareRows]
  __device__ __forceinline__ void store(float* share, int lane) const {
#pragma unroll
    for (int r = 0; r < kAccRows; ++r) {
#pragma unroll
      for (int j = 0; j < kLaneCols; ++j) {
        const int col = acc_col(lane, Acc::at(r, j));
        if (col < kCols) share[col * kShareRows + acc_row(lane, Acc::at(r, j))] = values[r][j];
      }
    }
  }
};

// Scales of a stage, for all lanes of the wave; zeros of steps past the row.
template <class T, class Opened>
__device__ __forceinline__ void work_out_scales(const Opened& opened, int stage, int first_step,
                                                int steps, const LdsTables<T>& tables,
                                                UnitScale<T>* scales) {
  constexpr int kStepUnits = T::kGroups / T::kSpan;
  // All are read before the first is written, so that nothing waits in between.
  UnitScale<T> values[Opened::kScaledSteps][kStepUnits];
  opened.each_scale([&](auto i, int, int s, const typename T::Raw& raw) {
    const bool inside = stage * Stage<T>::kSteps + s < steps;
    for_each_group<kStepUnits>([&](auto u) {
      const Group group = decode_group<T, u * T::kSpan>(raw, (first_step + s) % kSteps<T>, tables);
      if constexpr (T::kMins) {
        values[i][u] = {inside ? group.scale : 0.0f, inside ? group.min : 0.0f};
      } else {
        values[i][u] = inside ? group.scale : 0.0f;
      }
    });
  });
  opened.each_scale([&](auto i, int row, int s, const typename T::Raw&) {
    for_each_group<kStepUnits>(
        [&](auto u) { scales[(s * kStepUnits + u) * kTileRowsA + acc_place(row)] = values[i][u]; });
  });
}

// Copies x to LDS, by all threads of the block, who then have to meet. Neither end moves. Each
// thread asks for kFirst pieces before it stores any.
template <int kFirst>
__device__ __forceinline__ void copy_x(const uint8_t* from, uint8_t* to, int bytes) {
  const auto* const source = reinterpret_cast<const uint4*>(from);
  auto* const target = reinterpret_cast<uint4*>(to);
  const int threads = static_cast<int>(blockDim.x), pieces = bytes / 16;
  int i = static_cast<int>(threadIdx.x);
  if constexpr (kFirst > 0) {
    uint4 first[kFirst];
#pragma unroll
    for (int n = 0; n < kFirst; ++n) {
      if (i + n * threads < pieces) first[n] = source[i + n * threads];
    }
#pragma unroll
    for (int n = 0; n < kFirst; ++n) {
      if (i + n * threads < pieces) target[i + n * threads] = first[n];
    }
    i += kFirst * threads;
  }
#pragma unroll 8
  for (; i < pieces; i += threads) target[i] = source[i];
}

// Threads of a block, at most. On NVIDIA the loop of eight waves comes near the read bandwidth, and
// more of them begin later; types whose lanes need more time than their loads have sixteen.
template <class T>
constexpr bool kBusyLanes = LdsTables<T>::kWords > 0 || (T::kMins && T::kSpan == 1);
template <class T>
constexpr int kMultirowThreads = kCopiesAhead && kBusyLanes<T> ? 512 : 256;

// Pieces of x that a thread asks for at once: all of eight rows of 4096 columns. On AMD they would
// cost waves registers.
template <class T>
constexpr int kFirstPieces =
    kCopiesAhead ? 4096 / Body<T, 8>::kWidth * Body<T, 8>::kBytes / (16 * kMultirowThreads<T>) : 0;

// Where a wave is: the pass, which is a phase of a round, the stages of it that are left to the
// wave, and which is next, of which tile of the round.
struct MultirowPlace {
  int pass, left, tile, stage;
};

// A pass, as all waves of a block see it.
struct MultirowPass {
  int begin, end;  // stages of each tile
  int tiles;
  int wave_stages;  // of all tiles, that a wave has at most

  __device__ __forceinline__ MultirowPass(const MultirowArgs& args, int stages, int waves,
                                          int block_tiles, int round, int phase) {
    begin = phase * args.phase_stages, end = smaller(stages, begin + args.phase_stages);
    tiles = smaller(args.round_tiles, block_tiles - round * args.round_tiles);
    wave_stages = (tiles * (end - begin) + waves - 1) / waves;
  }
  __device__ __forceinline__ MultirowPlace start(int pass, int wave) const {
    const int all = tiles * (end - begin), first = smaller(wave * wave_stages, all);
    return {pass, smaller(wave_stages, all - first), first / (end - begin),
            begin + first % (end - begin)};
  }
};

template <class T, class View, int kCols>
__global__ void __launch_bounds__(kMultirowThreads<T>, 1) multirow_kernel(MultirowArgs args) {
  using B = Body<T, kCols>;
  using S = Stage<T>;
  using Weights = TileSupply<T, View>;
  constexpr int kStageX = S::kBodies * B::kBytes;
  extern __shared__ __align__(128) uint4 lds[];
  const int lane = threadIdx.x % kWaveSize, wave = wave_uniform(threadIdx.x / kWaveSize);
  const int threads = static_cast<int>(blockDim.x), waves = threads / kWaveSize;
  const int steps = args.cols / (16 * T::kGroups);
  const int stages = (steps + S::kSteps - 1) / S::kSteps;
  // A cluster has its tiles as a block that is alone has them, and a pass is one phase for each of
  // its blocks.
  const bool clustered = kHasClusters && args.cluster > 1;
  const int cluster = clustered ? args.cluster : 1, rank = clustered ? cluster_rank() : 0;
  const int turns = clustered ? args.phases / cluster : args.phases;
  const int blocks = static_cast<int>(gridDim.x) / cluster;
  const int block = static_cast<int>(blockIdx.x) / cluster;

  // LDS: tables, which have to be first; what supplies the waves, their scales, their sums; sums of
  // earlier phases, factors of the norm, x.
  auto* const table_words = reinterpret_cast<uint32_t*>(lds);
  auto* rest = reinterpret_cast<uint8_t*>(lds) + kTableBytes<LdsTables<T>>;
  Weights supply(rest, wave);
  rest += waves * Weights::bytes_per_wave();
  auto* const scales = reinterpret_cast<UnitScale<T>*>(lds_address(rest + wave * kScaleBytes<T>));
  rest += waves * kScaleBytes<T>;
  auto* const shares = reinterpret_cast<float*>(rest);  // of wave w and tile t: [w + t]
  rest += 4 * (waves + args.round_tiles) * kShareFloats<kCols>;
  auto* const earlier = reinterpret_cast<float*>(rest);  // [tile][kCols][16]
  if (args.phases > 1) rest += 4 * args.round_tiles * kCols * kTileRowsA;
  auto* const row_factors = reinterpret_cast<float*>(rest);  // of rows that are normed
  rest += 4 * kCols;
  auto* const all_spans = reinterpret_cast<int2*>(rest);  // of a tile: the first and the last wave
  rest += kSpanBytes * args.round_tiles;
  uint8_t* const x = lds_address(rest);

  // Neighbouring tiles go to different blocks.
  const int block_tiles = (args.tiles - block + blocks - 1) / blocks;
  const int passes = (block_tiles + args.round_tiles - 1) / args.round_tiles * turns;
  const auto tile_of = [&](int pass, int tile) {
    return (pass / turns * args.round_tiles + tile) * blocks + block;
  };
  const auto views_of = [&](int pass, int tile) {
    return TileViews<View>{args.w, args.w_rows, args.row_bytes,
                           tile_of(pass, tile) * args.tile_stride, args.tile_offset};
  };
  const auto pass_of = [&](int pass) {
    return MultirowPass(args, stages, waves, block_tiles, pass / turns,
                        pass % turns * cluster + rank);
  };

  MultirowPlace ahead{-1, 0, 0, 0};
  int ahead_end = 0;  // of the stages of its tile
  const auto aim = [&] { supply.aim(ahead.stage, lane, views_of(ahead.pass, ahead.tile)); };
  const auto enter_next_pass = [&] {
    while (ahead.left == 0 && ++ahead.pass < passes) {
      const MultirowPass pass = pass_of(ahead.pass);
      ahead = pass.start(ahead.pass, wave);
      ahead_end = pass.end;
    }
    if (ahead.left > 0) aim();
  };
  const auto load = [&](int a) {
    if (ahead.left == 0) return supply.skip();
    supply.load(a, ahead.stage, steps, lane);
    ++ahead.stage;
    if (--ahead.left == 0) {
      enter_next_pass();
    } else if (ahead.stage == ahead_end) {
      ++ahead.tile;
      ahead.stage = pass_of(ahead.pass).begin;
      aim();
    }
  };
  // Before the kernel that rounds x let this one begin, no other was left that writes weights.
  enter_next_pass();
#pragma unroll 1
  for (int a = 0; a < Weights::kStages; ++a) load(a);
  LdsTables<T>::fill(table_words);
  __syncthreads();  // some are read at once
  const LdsTables<T> tables(table_words);
  follow_previous();
  const auto copy_x_of = [&](const MultirowPass& pass, auto first) {
    copy_x<first>(args.x + static_cast<int64_t>(pass.begin) * kStageX, x,
                  (pass.end - pass.begin) * kStageX);
  };
  // Before the loop, which needs the registers.
  copy_x_of(pass_of(0), std::integral_constant<int, kFirstPieces<T>>{});
  if (args.squares && threadIdx.x < kCols) {
    const float* const squares = args.squares + static_cast<int>(threadIdx.x) * args.square_parts;
    float sum = 0.0f;
    for (int i = 0; i < args.square_parts; ++i) sum += squares[i];
    row_factors[threadIdx.x] = rsqrtf(sum / static_cast<float>(args.cols) + args.eps);
  }

  int a = 0;
#pragma unroll 1
  for (int p = 0; p < passes; ++p) {
    const MultirowPass pass = pass_of(p);
    int2* const spans = all_spans + p % 2 * args.round_tiles;
    if (static_cast<int>(threadIdx.x) < pass.tiles) {
      const int stages_before = static_cast<int>(threadIdx.x) * (pass.end - pass.begin);
      spans[threadIdx.x] = {stages_before / pass.wave_stages,
                            (stages_before + pass.end - pass.begin - 1) / pass.wave_stages};
    }
    if (p > 0 && turns > 1) copy_x_of(pass, std::integral_constant<int, 0>{});
    __syncthreads();
    MultirowPlace at = pass.start(p, wave);
#pragma unroll 1
    while (at.left > 0) {
      TileSums<T, kCols> sums{};
      const TileViews<View> views = views_of(p, at.tile);
      const int end = smaller(pass.end, at.stage + at.left);
      at.left -= end - at.stage;
#pragma unroll 1
      for (int stage = at.stage; stage < end; ++stage) {
        supply.wait();
        const auto opened = supply.open(a, stage, steps, lane, views);
        // What waited in registers is there now; from LDS it is read below.
        if constexpr (!kCopiesAhead) load(a);
        const int first_step = kCopiesAhead ? 0 : stage * S::kSteps % kSteps<T>;
        work_out_scales<T>(opened, stage, first_step, steps, tables, scales);
        wave_barrier();
        const uint8_t* const stage_x = x + (stage - pass.begin) * kStageX;
        for_each_group<S::kBodies>([&](auto body) {
          TakenSteps<T> raw;
          opened.template take<body>(raw);
          sums.template add_body<body>(raw, first_step, stage_x + body * B::kBytes, scales, lane,
                                       tables);
        });
        if constexpr (kCopiesAhead) {
          load(a);
          a = a + 1 == Weights::kStages ? 0 : a + 1;
        } else {
          wave_barrier();
        }
      }
      sums.store(shares + (wave + at.tile) * kShareFloats<kCols>, lane);
      ++at.tile;
      at.stage = pass.begin;
    }
    __syncthreads();

    const bool first = p % turns == 0, last = p % turns == turns - 1;
    // Sum over the waves that had something of the tile, and of earlier phases.
    const auto complete = [&](int tile, int m, int n) {
      const int2 span = spans[tile];
      const float* share = shares + (span.x + tile) * kShareFloats<kCols> + m * kShareRows + n;
      float sum = *share;
      for (int w = span.x; w < span.y; ++w) sum += *(share += kShareFloats<kCols>);
      if (args.phases == 1) return sum;
      float& before = earlier[(tile * kCols + m) * kTileRowsA + n];
      if (!first) sum += before;
      if (clustered || !last) before = sum;
      return sum;
    };
    // The sum of those of a cluster's blocks.
    const auto gather = [&](int tile, int m, int n) {
      if (!clustered) return complete(tile, m, n);
      float sum = 0.0f;
      for (int r = 0; r < cluster; ++r) {
        sum += *lds_of_block(&earlier[(tile * kCols + m) * kTileRowsA + n], r);
      }
      return sum;
    };
    if (clustered) {
      for (int i = static_cast<int>(threadIdx.x); i < pass.tiles * kCols * kTileRowsA;
           i += threads) {
        complete(i / kTileRowsA / kCols, i / kTileRowsA % kCols, i % kTileRowsA);
      }
      if (!last) continue;
      cluster_barrier();
    }
    const auto with_bias = [&](float sum, int row) {
      return args.bias ? sum + load_as(args.bias_dtype, args.bias, row) : sum;
    };
    const int rows = args.gated ? 8 : kTileRowsA;
    const int count = (pass.tiles - rank + cluster - 1) / cluster * kCols * rows;
#pragma unroll(kCopiesAhead ? 2 : 1)
    for (int i = static_cast<int>(threadIdx.x); i < count; i += threads) {
      const int n = i % rows, m = i / rows % kCols, tile = i / rows / kCols * cluster + rank;
      const int row = tile_of(p, tile) * args.tile_stride + n;
      float sum = gather(tile, m, n);
      float other = args.gated ? gather(tile, m, n + 8) : 0.0f;
      if (args.squares) sum *= row_factors[m], other *= row_factors[m];
      if (!last || m >= args.x_rows || row >= args.out_cols) continue;
      sum = with_bias(sum, row);
      if (args.gated) {
        sum = activate(args.act, sum) * with_bias(other, row + args.tile_offset);
      }
      store_as(args.dtype, args.out, static_cast<int64_t>(m) * args.out_cols + row, sum);
    }
    // A wave can still be at these sums when others copy x of the next pass, which they have left.
    if (clustered) cluster_barrier();  // others read this block's sums
  }
}

}  // namespace rocmforge::gpu
