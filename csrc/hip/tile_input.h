// Rows of x as the tile kernels read them, which may be normed on the way: a template over their
// order, in which pieces of eight values of a row stand together. Instances with PlainOrder are in
// tile_input.hip, those with SlotOrder beside the tiles of their types (tile_family.h).
#pragma once

#include "hip/mma.h"
#include "hip/quants/table.h"
#include "hip/reduce.h"
#include "hip/rounding.h"
#include "hip/tile.h"
#include "hip/tile_power.h"

namespace rocmforge::gpu {

constexpr int kTileInputThreads = kCopiesAhead ? 1024 : 256;
constexpr int kPiece = 8;
static_assert(kPiece == kRoundedAtOnce);

// Columns that a block takes at a time, a piece by every thread.
constexpr int kInputPart = kTileInputThreads * kPiece;

// Eight neighbours to a piece.
struct PlainOrder {
  static constexpr int pieces(int cols) { return cols / kPiece; }
  static __device__ __forceinline__ int column(int piece, int pair) {
    return piece * kPiece + 2 * pair;
  }
};

// For tile_warpgroup.h: two columns of every slot to a piece, in the order in which the lanes'
// slots hold columns. A turn is a step of every slot; its pieces go by groups, and within a group
// along the 16 columns of the step.
template <class T>
struct SlotOrder {
  static constexpr int kPieces = 16 / 2 * T::kGroups;  // of a turn
  static constexpr int kWidth = kPieces * kPiece;      // columns of a turn
  static_assert(kInputPart % kWidth == 0 && kInputPart % T::kBlock == 0);
  static constexpr int pieces(int cols) { return (cols + kWidth - 1) / kWidth * kPieces; }

  // The first of a slot's two columns, or one past the row.
  static __device__ __forceinline__ int column(int piece, int slot) {
    const int step = piece / kPieces * kSlots + slot, in_turn = piece % kPieces;
    const int group = in_turn / 8, at = in_turn % 8 * 2;
    constexpr int kApart = T::template first<1>(0) - T::template first<0>(0);
    return step / kSteps<T> * T::kBlock + T::template first<0>(step % kSteps<T>) + group * kApart +
           (at < 8 ? at : kHalfApart<T> + at - 8);
  }
};

struct TileInputArgs {
  DType dtype;
  const void* x;
  int64_t stride;
  int rows, cols, chunk_rows;
  bool norms, weights_at_rest;
  InputNorm norm;
  __half* values;
  float* factors;
};

// The piece of a row from a column on, but for the factor of the norm: values * weight.
struct InputRow {
  const TileInputArgs& args;
  int64_t x, total;  // where the row begins

  // Adds the residual and writes the total, unless that has been done.
  __device__ __forceinline__ void read(int col, bool again, float (&values)[kPiece]) const {
    const InputNorm& norm = args.norm;
    const bool sums = norm.residual != nullptr, summed = sums && again;
    LoadedWords words =
        load_words_of(args.dtype, summed ? norm.total : args.x, (summed ? total : x) + col);
    values_of(args.dtype, words, values);
    if (sums && !again) {
      const LoadedWords others = load_words_of(args.dtype, norm.residual, total + col);
      words = add_words(args.dtype, others, values);
    }
    if (norm.total && !again) store_words_of(args.dtype, norm.total, total + col, words);
  }
  __device__ __forceinline__ void weigh(int col, float (&values)[kPiece]) const {
    const InputNorm& norm = args.norm;
    if (!norm.weight) return;
    float weights[kPiece];
    values_of(norm.weight_dtype, load_words_of(norm.weight_dtype, norm.weight, col), weights);
#pragma unroll
    for (int i = 0; i < kPiece; ++i) values[i] *= weights[i];
  }
};

// A block per row; rows past the last are zeros.
template <class Order>
__global__ void __launch_bounds__(kTileInputThreads) tile_input_kernel(TileInputArgs args) {
  // The product may load its first weights while the kernel ahead of this one runs.
  if (args.weights_at_rest) let_next_begin();
  follow_previous();
  const int row = static_cast<int>(blockIdx.x), thread = static_cast<int>(threadIdx.x);
  const int cols = row < args.rows ? args.cols : 0;
  const InputRow from{args, row * args.stride, static_cast<int64_t>(row) * args.cols};

  // The first piece of a thread, which mostly is the only one, stays in registers.
  float values[kPiece] = {}, squares = 0.0f;
  uint32_t largest = 0;
#pragma unroll 1
  for (int col = thread * kPiece; col < cols; col += kInputPart) {
    float piece[kPiece];
    from.read(col, false, piece);
    squares = add_squares(squares, piece);
    from.weigh(col, piece);
#pragma unroll
    for (const float value : piece) largest = larger_magnitude(largest, value);
    if (col < kInputPart) {
#pragma unroll
      for (int i = 0; i < kPiece; ++i) values[i] = piece[i];
    }
  }
  float factor = 1.0f;
  if (args.norms) {
    squares = block_sum<kTileInputThreads>(squares);
    factor = rsqrtf(squares / static_cast<float>(args.cols) + args.norm.eps);
    largest = __float_as_uint(fabsf(__uint_as_float(largest) * factor));
  }
  const RowPower power = row_power<kTileInputThreads>(largest);
  if (thread == 0) args.factors[row] = power.back;
  factor *= power.to;

  __shared__ uint4 part[kTileInputThreads];
  const auto* const pairs = reinterpret_cast<const uint32_t*>(part);
  const int pieces = Order::pieces(args.cols);
  auto* const to = reinterpret_cast<uint4*>(args.values) +
                   static_cast<int64_t>(row / args.chunk_rows) * pieces * args.chunk_rows +
                   row % args.chunk_rows;
#pragma unroll 1
  for (int first = 0; first < pieces; first += kTileInputThreads) {
    const int piece = first + thread, col = piece * kPiece;
    if (first > 0) {
      __syncthreads();  // the part before has been read
#pragma unroll
      for (float& value : values) value = 0.0f;
      if (col < cols) {
        from.read(col, true, values);
        from.weigh(col, values);
      }
    }
    uint32_t words[kPiece / 2];
#pragma unroll
    for (int i = 0; i < kPiece / 2; ++i) {
      words[i] = pack_pair<__half>(values[2 * i] * factor, values[2 * i + 1] * factor);
    }
    part[thread] = make_uint4(words[0], words[1], words[2], words[3]);
    __syncthreads();
    if (piece >= pieces) continue;
#pragma unroll
    for (int i = 0; i < kPiece / 2; ++i) {
      words[i] = pairs[(Order::column(piece, i) - first * kPiece) / 2];
    }
    to[static_cast<int64_t>(piece) * args.chunk_rows] =
        make_uint4(words[0], words[1], words[2], words[3]);
  }
}

template <class Order>
void launch_tile_input(const TileInputCall& call, const InputNorm* norm, int64_t written) {
  const TileInput& out = call.out;
  const TileInputArgs args{call.dtype,
                           call.x,
                           call.stride,
                           static_cast<int>(call.rows),
                           static_cast<int>(call.cols),
                           out.chunk_rows,
                           norm != nullptr,
                           call.weights_at_rest,
                           norm ? *norm : InputNorm{},
                           reinterpret_cast<__half*>(out.values),
                           out.factors};
  launch_early(tile_input_kernel<Order>, dim3(static_cast<unsigned>(written)),
               dim3(kTileInputThreads), 0, static_cast<gpuStream_t>(call.stream), args);
}

}  // namespace rocmforge::gpu
