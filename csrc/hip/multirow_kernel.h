// The multirow kernel, a template over type, layout and rows of x; instances are in multirow_*.hip.
//
// A first kernel rounds x to 8 bits (multirow_input.h). Then as many blocks as the card holds at
// once share the rows of w, 16 to a tile. Each has x in LDS, whole or by phases if it is long. The
// waves of a block divide the columns of a tile, by stages, whose weights are loaded while earlier
// ones are being used. Sums in 32-bit integers go over a unit, what has a scale of its own; the
// waves' sums meet in LDS in a fixed order.
#pragma once

#include "hip/dispatch.h"
#include "hip/gates.h"
#include "hip/multirow.h"
#include "hip/multirow_supply.h"
#include "hip/typed_memory.h"

namespace rocmforge::gpu {

struct MultirowArgs {
  const uint8_t* w;
  int w_rows, row_bytes, cols;
  int tiles, tile_stride, tile_offset;  // row i of tile t is t * stride + i % 8 + i / 8 * offset
  int parts_log2;                       // of the waves that share a tile
  int rounds;                           // of a block over its tiles
  int phases, phase_stages;             // of x
  const uint8_t* x;                     // bodies
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

// LDS of a wave, behind what supplies it: scales [units of a stage][16 rows], then what it tells
// the others of its sums: [two][kCols][kShareRows].
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
  opened.each_scale([&](int row, int s, const typename T::Raw& raw) {
    const bool inside = stage * Stage<T>::kSteps + s < steps;
    for_each_group<kStepUnits>([&](auto u) {
      const Group group = decode_group<T, u * T::kSpan>(raw, (first_step + s) % kSteps<T>, tables);
      UnitScale<T>& to = scales[(s * kStepUnits + u) * kTileRowsA + acc_place(row)];
      if constexpr (T::kMins) {
        to = {inside ? group.scale : 0.0f, inside ? group.min : 0.0f};
      } else {
        to = inside ? group.scale : 0.0f;
      }
    });
  });
}

// Copies x to LDS, by all threads of the block, who then have to meet. Neither end moves.
__device__ __forceinline__ void copy_x(const uint8_t* from, uint8_t* to, int bytes) {
  const int threads = static_cast<int>(blockDim.x);
#pragma unroll 8
  for (int i = static_cast<int>(threadIdx.x); i < bytes / 16; i += threads) {
    reinterpret_cast<uint4*>(to)[i] = reinterpret_cast<const uint4*>(from)[i];
  }
}

constexpr int kMultirowThreads = kCopiesAhead ? 512 : 256;

template <class T, class View, int kCols>
__global__ void __launch_bounds__(kMultirowThreads, 1) multirow_kernel(MultirowArgs args) {
  using B = Body<T, kCols>;
  using S = Stage<T>;
  using Weights = TileSupply<T, View>;
  constexpr int kStageX = S::kBodies * B::kBytes;
  extern __shared__ uint4 lds[];
  const int lane = threadIdx.x % kWaveSize, wave = wave_uniform(threadIdx.x / kWaveSize);
  const int waves = static_cast<int>(blockDim.x) / kWaveSize;
  const int parts = 1 << args.parts_log2, part = wave & (parts - 1), team = wave >> args.parts_log2;
  const int teams = waves >> args.parts_log2;
  const int steps = args.cols / (16 * T::kGroups);
  const int stages = (steps + S::kSteps - 1) / S::kSteps;

  // LDS: what supplies the waves, their scales, their sums; tables, sums of earlier phases, x.
  auto* rest = reinterpret_cast<uint8_t*>(lds);
  Weights supply(rest, wave);
  rest += waves * Weights::bytes_per_wave();
  auto* const scales = reinterpret_cast<UnitScale<T>*>(lds_address(rest + wave * kScaleBytes<T>));
  rest += waves * kScaleBytes<T>;
  auto* const shares = reinterpret_cast<float*>(rest);  // [two][wave]
  rest += 2 * 4 * waves * kShareFloats<kCols>;
  auto* const table_words = reinterpret_cast<uint32_t*>(rest);
  rest += 4 * LdsTables<T>::kWords;
  auto* const earlier = reinterpret_cast<float*>(rest);  // [round][team][kCols][16]
  if (args.phases > 1) rest += 4 * args.rounds * teams * kCols * kTileRowsA;
  uint8_t* const x = lds_address(rest);

  // Neighbouring tiles go to different blocks.
  const auto tile_of = [&](int round) {
    return (round * teams + team) * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
  };
  const auto views_of = [&](int round) {
    return TileViews<View>{args.w, args.w_rows, args.row_bytes, tile_of(round) * args.tile_stride,
                           args.tile_offset};
  };
  const auto end_of = [&](int phase) { return smaller(stages, (phase + 1) * args.phase_stages); };

  struct {
    int phase, round, stage;
  } ahead{0, 0, part};
  const auto load = [&](int a) {
    if (ahead.phase >= args.phases) return supply.skip();
    supply.load(a, ahead.stage, steps, lane, views_of(ahead.round));
    ahead.stage += parts;
    if (ahead.stage < end_of(ahead.phase)) return;
    if (++ahead.round == args.rounds) ahead.round = 0, ++ahead.phase;
    ahead.stage = ahead.phase * args.phase_stages + part;
  };
  // Before the kernel that rounds x could start, no other was left that writes weights.
#pragma unroll 1
  for (int a = 0; a < Weights::kStages; ++a) load(a);
  LdsTables<T>::fill(table_words);
  const LdsTables<T> tables(table_words);
  follow_previous();

  int a = 0;
  for (int phase = 0; phase < args.phases; ++phase) {
    const int first_stage = phase * args.phase_stages, end = end_of(phase);
    copy_x(args.x + static_cast<int64_t>(first_stage) * kStageX, x, (end - first_stage) * kStageX);
    __syncthreads();
    for (int round = 0; round < args.rounds; ++round) {
      TileSums<T, kCols> sums{};
      for (int stage = first_stage + part; stage < end; stage += parts) {
        supply.wait();
        const auto opened = supply.open(a, stage, steps, lane, views_of(round));
        // What waited in registers is there now; from LDS it is read below.
        if constexpr (!kCopiesAhead) load(a);
        const int first_step = kCopiesAhead ? 0 : stage * S::kSteps % kSteps<T>;
        work_out_scales<T>(opened, stage, first_step, steps, tables, scales);
        wave_barrier();
        const uint8_t* const stage_x = x + (stage - first_stage) * kStageX;
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

      float* const share = shares + (round & 1) * waves * kShareFloats<kCols>;
      sums.store(share + wave * kShareFloats<kCols>, lane);
      __syncthreads();
      const bool last = phase == args.phases - 1;
      // Sum over the waves, and of earlier phases.
      const auto complete = [&](int of_team, int m, int n) {
        const float* from = share + of_team * parts * kShareFloats<kCols> + m * kShareRows + n;
        float sum = 0.0f;
        for (int p = 0; p < parts; ++p) sum += from[p * kShareFloats<kCols>];
        if (args.phases == 1) return sum;
        float& before = earlier[((round * teams + of_team) * kCols + m) * kTileRowsA + n];
        if (phase > 0) sum += before;
        if (!last) before = sum;
        return sum;
      };
      const auto with_bias = [&](float sum, int row) {
        return args.bias ? sum + load_as(args.bias_dtype, args.bias, row) : sum;
      };
      const int rows = args.gated ? 8 : kTileRowsA, count = teams * kCols * rows;
      // Other waves every time.
      const int threads = static_cast<int>(blockDim.x);
      int i = (static_cast<int>(threadIdx.x) + round * kCols * rows) & (threads - 1);
      for (; i < count; i += threads) {
        const int n = i % rows, m = i / rows % kCols, of_team = i / rows / kCols;
        const int tile =
            (round * teams + of_team) * static_cast<int>(gridDim.x) + static_cast<int>(blockIdx.x);
        const int row = tile * args.tile_stride + n;
        float sum = complete(of_team, m, n);
        const float other = args.gated ? complete(of_team, m, n + 8) : 0.0f;
        if (!last || m >= args.x_rows || row >= args.out_cols) continue;
        sum = with_bias(sum, row);
        if (args.gated) {
          sum = activate(args.act, sum) * with_bias(other, row + args.tile_offset);
        }
        store_as(args.dtype, args.out, static_cast<int64_t>(m) * args.out_cols + row, sum);
      }
    }
    // A wave can still be at the sums of the last round, but has left x.
  }
}

// How a product is divided; the same for both layouts, so that they give the same bits.
struct MultirowPlan {
  int threads, blocks, lds;
  int parts_log2, rounds, phases, phase_stages;
};

template <class T, int kCols>
MultirowPlan multirow_plan(int cols, int tiles) {
  constexpr int kSupply =
      TileSupply<T, FileView<T>>::bytes_per_wave() > TileSupply<T, PackedView<T>>::bytes_per_wave()
          ? TileSupply<T, FileView<T>>::bytes_per_wave()
          : TileSupply<T, PackedView<T>>::bytes_per_wave();
  constexpr int kWaveBytes = kSupply + kScaleBytes<T> + 2 * 4 * kShareFloats<kCols>;
  constexpr int kStageX = Stage<T>::kBodies * Body<T, kCols>::kBytes;
  const int lanes = device_wave_size(), room = device_lds_bytes() - 4 * LdsTables<T>::kWords;
  const int stages =
      (cols + Stage<T>::kWidth * Stage<T>::kBodies - 1) / (Stage<T>::kWidth * Stage<T>::kBodies);
  MultirowPlan plan{};
  // As many waves as leave x whole; long rows of x come by phases.
  const auto stages_that_fit = [&](int threads, int sums) {
    return (room - sums - threads / lanes * kWaveBytes) / kStageX;
  };
  plan.threads = kMultirowThreads;
  while (plan.threads > kMultirowThreads / 2 && stages_that_fit(plan.threads, 0) < stages) {
    plan.threads /= 2;
  }
  const int sum_bytes = room / 8;  // of all tiles of a block, if there are phases
  const bool whole = stages_that_fit(plan.threads, 0) >= stages;
  int most = stages_that_fit(plan.threads, sum_bytes);
  if (most < 1) most = 1;
  plan.phases = whole ? 1 : (stages + most - 1) / most;
  plan.phase_stages = (stages + plan.phases - 1) / plan.phases;
  plan.phases = (stages + plan.phase_stages - 1) / plan.phase_stages;
  const int fewest = stages - (plan.phases - 1) * plan.phase_stages;
  const int waves = plan.threads / lanes;
  int parts = waves;
  while (parts > fewest) parts /= 2;
  while (1 << plan.parts_log2 < parts) ++plan.parts_log2;
  const int teams = waves / parts;
  const int base = 4 * LdsTables<T>::kWords + waves * kWaveBytes + plan.phase_stages * kStageX;
  const int at_once = smaller(blocks_per_unit(plan.threads),
                              device_lds_bytes() / base > 0 ? device_lds_bytes() / base : 1);
  const int work = (tiles + teams - 1) / teams;
  plan.blocks = smaller(device_compute_units() * at_once, work);
  plan.rounds = (work + plan.blocks - 1) / plan.blocks;
  if (!whole) {
    const int round_bytes = 4 * teams * kCols * kTileRowsA;
    plan.rounds = smaller(plan.rounds, sum_bytes / round_bytes > 0 ? sum_bytes / round_bytes : 1);
    plan.blocks = (work + plan.rounds - 1) / plan.rounds;
    plan.lds = plan.rounds * round_bytes;
  }
  plan.lds += base;
  return plan;
}

template <class T, class View, int kCols>
void launch_multirow_view(const MultirowArgs& args, const MultirowPlan& plan, Stream stream) {
  const auto kernel = multirow_kernel<T, View, kCols>;
  allow_lds(kernel, plan.lds);
  launch_early(kernel, dim3(static_cast<unsigned>(plan.blocks)),
               dim3(static_cast<unsigned>(plan.threads)), plan.lds,
               static_cast<gpuStream_t>(stream), args);
}

template <class T, int kCols>
void launch_multirow(const MultirowCall& call, bool gated, Activation act) {
  const QuantMatrix& w = call.w;
  const int rows = static_cast<int>(w.rows), cols = static_cast<int>(w.cols);
  constexpr int kStageWidth = Stage<T>::kWidth * Stage<T>::kBodies;
  const int width = (cols + kStageWidth - 1) / kStageWidth * kStageWidth;
  auto* const bodies = static_cast<uint8_t*>(call.workspace);
  launch_multirow_input(
      MultirowInput<T, kCols>{call.dtype, call.x, static_cast<int>(call.rows), cols, bodies}, width,
      call.stream);
  MultirowArgs args{};
  args.w = w.data, args.w_rows = rows, args.row_bytes = static_cast<int>(w.row_bytes);
  args.cols = cols;
  args.tile_stride = gated ? 8 : kTileRowsA, args.tile_offset = gated ? rows / 2 : 8;
  args.out_cols = gated ? rows / 2 : rows;
  args.tiles = (args.out_cols + args.tile_stride - 1) / args.tile_stride;
  const MultirowPlan plan = multirow_plan<T, kCols>(cols, args.tiles);
  args.parts_log2 = plan.parts_log2, args.rounds = plan.rounds;
  args.phases = plan.phases, args.phase_stages = plan.phase_stages;
  args.x = bodies, args.x_rows = static_cast<int>(call.rows);
  args.bias = call.bias, args.bias_dtype = call.bias_dtype, args.dtype = call.dtype;
  args.gated = gated, args.act = act, args.out = call.out;
  w.layout == 0 ? launch_multirow_view<T, FileView<T>, kCols>(args, plan, call.stream)
                : launch_multirow_view<T, PackedView<T>, kCols>(args, plan, call.stream);
}

template <class Types>
Status multirow_of(const MultirowCall& call, bool gated, Activation act) {
  with_type_of(Types{}, call.w.qtype, [&](auto type) {
    using T = decltype(type);
    call.rows <= 8 ? launch_multirow<T, 8>(call, gated, act)
                   : launch_multirow<T, 16>(call, gated, act);
  });
  return launch_status();
}

}  // namespace rocmforge::gpu
