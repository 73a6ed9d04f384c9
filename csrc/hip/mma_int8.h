// Matrix units through one step on bytes: a wave gets A . B' of signed bytes as 32-bit integers.
//
// A has 16 rows, B kCols of 8 or 16, and k runs over kSpan groups of 16. Rows of A, the lanes that
// share one (slots), and the elements of the result stand as mma.h says. Of every group a lane
// passes kLaneWords words of four codes, those of its slot: of rows row_of_a(lane, i) for A, and of
// B what stands at b_place(col, slot). As A and B come in the same order and a sum does not care,
// which k a unit calls which is of no interest.
//
//   acc_place(row)            the places of a lane's rows of the result follow each other: from
//   acc_rows_from(lane)       this one on kAccRows of them
//   IntTile<kCols>::at(i, j)  the element of the lane's row i and column j, of kLaneCols, which
//                             is acc_col(lane, at(0, j)); columns past kCols mean nothing
#pragma once

#include "hip/mma.h"

namespace rocmforge::gpu {

constexpr int kLaneWords = 4 / kSlots;

#if !defined(__HIP__)

constexpr int kAccRows = 2;
__device__ __forceinline__ int acc_place(int row) { return row % 8 * 2 + row / 8; }
__device__ __forceinline__ int acc_rows_from(int lane) { return lane / 4 * 2; }
template <int kCols>
__device__ __forceinline__ int b_place(int col, int slot) {
  return 4 * col + slot;
}
// Lanes of a wave that are neighbours in slots.
constexpr int kSlotLanes = 1;

#else

constexpr int kAccRows = kAccElements;
__device__ __forceinline__ int acc_place(int row) {
#if defined(__GFX11__)
  return row % 2 * 8 + row / 2;
#else
  return row;
#endif
}
__device__ __forceinline__ int acc_rows_from(int lane) { return lane / 16 * kAccRows; }
template <int kCols>
__device__ __forceinline__ int b_place(int col, int slot) {
  return kCols * slot + col % kCols;
}
constexpr int kSlotLanes = 16;

#endif

template <int kCols>
struct IntTile {
#if defined(__HIP__)
  static constexpr int kElements = kAccElements, kLaneCols = 1, kParts = 1;
  static constexpr __device__ __forceinline__ int at(int i, int) { return i; }
#else
  static constexpr int kElements = kCols / 2, kLaneCols = kCols / 4, kParts = kCols / 8;
  static constexpr __device__ __forceinline__ int at(int i, int j) {
    return j / 2 * 4 + 2 * i + j % 2;
  }
#endif
  int values[kElements];
};

// Part p of B for the lane: where it begins among what b_place counts.
template <int kCols>
__device__ __forceinline__ int b_lane(int lane, int part) {
  return b_place<kCols>(row_of_b(lane, part), slot(lane));
}

#if !defined(__HIP__)

template <int kSpan, int kCols>
__device__ __forceinline__ void mma(IntTile<kCols>& tile,
                                    const uint32_t (&a)[kLaneRowsA][kSpan * kLaneWords],
                                    const uint32_t (&b)[kCols / 8][kSpan * kLaneWords]) {
#pragma unroll
  for (int j = 0; j < kCols / 8; ++j) {
    int* c = tile.values + 4 * j;
    if constexpr (kSpan == 2) {
      const StepA<int8_t> rows = {{a[0][0], a[1][0], a[0][1], a[1][1]}};
      multiply_step(c, rows, StepB<int8_t>{{b[j][0], b[j][1]}}, kDotZero);
    } else {
      asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 "
          "{%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, %7, %7};"
          : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
          : "r"(a[0][0]), "r"(a[1][0]), "r"(b[j][0]), "r"(kDotZero));
    }
  }
}

#elif defined(__GFX9__) || defined(__GFX11__) || defined(__GFX12__)

// The words of one instruction.
template <int N>
__device__ __forceinline__ auto int_operand(const uint32_t* words) {
  Vector<int, N> operand;
#pragma unroll
  for (int i = 0; i < N; ++i) operand[i] = static_cast<int>(words[i]);
  return operand;
}

template <int kSpan, int kCols>
__device__ __forceinline__ void mma(IntTile<kCols>& tile,
                                    const uint32_t (&a)[1][kSpan * kLaneWords],
                                    const uint32_t (&b)[1][kSpan * kLaneWords]) {
  Vector<int, kAccElements> c = {};
#if defined(__gfx942__)
  // Two groups to an instruction; the second of none is zeros.
  const auto pair = [](const uint32_t* words) {
    return static_cast<long>(words[0]) |
           (kSpan == 2 ? static_cast<long>(words[kSpan - 1]) << 32 : 0);
  };
  c = __builtin_amdgcn_mfma_i32_16x16x32_i8(pair(a[0]), pair(b[0]), c, 0, 0, 0);
#else
#pragma unroll
  for (int g = 0; g < kSpan; ++g) {
    const auto* of_a = a[0] + g * kLaneWords;
    const auto* of_b = b[0] + g * kLaneWords;
#if defined(__GFX9__)
    c = __builtin_amdgcn_mfma_i32_16x16x16i8(static_cast<int>(*of_a), static_cast<int>(*of_b), c, 0,
                                             0, 0);
#elif defined(__GFX12__)
    c = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32_gfx12(true, int_operand<2>(of_a), true,
                                                         int_operand<2>(of_b), c, false);
#else
    c = __builtin_amdgcn_wmma_i32_16x16x16_iu8_w32(true, int_operand<4>(of_a), true,
                                                   int_operand<4>(of_b), c, false);
#endif
  }
#endif
#pragma unroll
  for (int e = 0; e < kAccElements; ++e) tile.values[e] = c[e];
}

#else

// sum += the four bytes of a that lane E of each 16 neighbours has, times b's.
template <int E>
__device__ __forceinline__ void add_shared(int& sum, uint32_t a, uint32_t b) {
#if defined(__GFX10__)
  asm("v_dot4c_i32_i8_dpp %0, %1, %2 row_share:%3 row_mask:0xf bank_mask:0xf"
      : "+v"(sum)
      : "v"(a), "v"(b), "n"(E));
#endif
}

template <int N, int E = 0>
__device__ __forceinline__ void add_words(int (&sums)[kAccElements], const uint32_t (&a)[N],
                                          const uint32_t (&b)[N]) {
  if constexpr (E < kAccElements) {
    sums[E] = kDotZero;
#pragma unroll
    for (int i = 0; i < N; ++i) add_shared<E>(sums[E], a[i], b[i]);
    add_words<N, E + 1>(sums, a, b);
  }
}

template <int kSpan, int kCols>
__device__ __forceinline__ void mma(IntTile<kCols>& tile,
                                    const uint32_t (&a)[1][kSpan * kLaneWords],
                                    const uint32_t (&b)[1][kSpan * kLaneWords]) {
  add_words(tile.values, a[0], b[0]);
}

#endif

}  // namespace rocmforge::gpu
