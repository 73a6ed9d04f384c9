// Matrix units through one step: a wave adds A . B' to a 16x16 tile of float32.
//
// A is [16, kMmaDepth] and B is [16, kMmaDepth], float16 or bfloat16. Lanes hold spans of 16
// neighbouring values of a row, so that a span is two 16-byte loads or one group of quantized
// weights. The units pair k's of their own order inside a step; as A and B come in the same order
// and a sum does not care, which k a unit calls which is of no interest.
//
//   row_of_a(lane, i), i < kLaneRowsA   the rows of A of which a lane passes a span
//   row_of_b(lane, j), j < kLaneRowsB   the same for B; the later half of them can be left out,
//                                       which leaves the later columns of the tile out
//   slot(lane), of kSlots               which 16 of the kMmaDepth values those spans are
//   acc_row(lane, e), acc_col(lane, e)  where element e of the lane's part of the tile stands
//
// Columns can be had eight at a time on NVIDIA; kFewestTileCols is for host code, too.
//
// Where kLoadsTransposed says so, load_transposed reads spans of B's rows from LDS that holds the
// columns of B one after the other.
//
// Beside compat.h this and mma_int8.h are the only files that ask for the architecture. AMD's
// layouts are those of its matrix instruction calculator, NVIDIA's those of PTX ISA, "Matrix
// fragments for mma.m16n8k16". Device code only: the constants differ between the architectures of
// one binary.
#pragma once

#include <type_traits>

#include "hip/compat.h"

namespace rocmforge::gpu {

// 16 neighbouring values of a row, two to a word, the earlier one in the low half.
template <typename T>
struct Span {
  uint32_t words[8];
};

// `from` is 16-byte aligned, in global memory or LDS.
template <typename T>
__device__ __forceinline__ Span<T> load_span(const T* from) {
  const uint4 low = reinterpret_cast<const uint4*>(from)[0];
  const uint4 high = reinterpret_cast<const uint4*>(from)[1];
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

// The same where the second half of the span stands `apart` values after the first.
template <typename T>
__device__ __forceinline__ Span<T> load_halves(const T* from, int apart) {
  const uint4 low = *reinterpret_cast<const uint4*>(from);
  const uint4 high = *reinterpret_cast<const uint4*>(from + apart);
  return {{low.x, low.y, low.z, low.w, high.x, high.y, high.z, high.w}};
}

// A lane's part of 16 rows of A and of eight rows of B in one instruction of NVIDIA's.
template <typename T>
struct StepA {
  uint32_t words[4];
};
template <typename T>
struct StepB {
  uint32_t words[2];
};

constexpr int kAccElements = 256 / kWaveSize;  // of a whole tile, per lane

#if !defined(__HIP__)  // NVIDIA: mma.sync, four lanes to a row, two rows of A and of B to a lane

constexpr int kSlots = 4, kLaneRowsA = 2, kLaneRowsB = 2;
__device__ __forceinline__ int slot(int lane) { return lane % 4; }
__device__ __forceinline__ int row_of_a(int lane, int i) { return lane / 4 + 8 * i; }
__device__ __forceinline__ int row_of_b(int lane, int j) { return lane / 4 + 8 * j; }
__device__ __forceinline__ int acc_row(int lane, int e) { return lane / 4 + 8 * (e / 2 % 2); }
__device__ __forceinline__ int acc_col(int lane, int e) {
  return 8 * (e / 4) + 2 * (lane % 4) + e % 2;
}

#elif defined(__GFX9__)  // CDNA: MFMA, four lanes of 64 to a row

constexpr int kSlots = 4, kLaneRowsA = 1, kLaneRowsB = 1;
__device__ __forceinline__ int slot(int lane) { return lane / 16; }
__device__ __forceinline__ int row_of_a(int lane, int) { return lane % 16; }
__device__ __forceinline__ int row_of_b(int lane, int) { return lane % 16; }
__device__ __forceinline__ int acc_row(int lane, int e) { return 4 * (lane / 16) + e; }
__device__ __forceinline__ int acc_col(int lane, int) { return lane % 16; }

#elif defined(__GFX12__)  // RDNA4: WMMA, two lanes to a row

constexpr int kSlots = 2, kLaneRowsA = 1, kLaneRowsB = 1;
__device__ __forceinline__ int slot(int lane) { return lane / 16; }
__device__ __forceinline__ int row_of_a(int lane, int) { return lane % 16; }
__device__ __forceinline__ int row_of_b(int lane, int) { return lane % 16; }
__device__ __forceinline__ int acc_row(int lane, int e) { return 8 * (lane / 16) + e; }
__device__ __forceinline__ int acc_col(int lane, int) { return lane % 16; }

#elif defined(__GFX11__)
// RDNA3: WMMA, both halves of the wave hold the same

constexpr int kSlots = 1, kLaneRowsA = 1, kLaneRowsB = 1;
__device__ __forceinline__ int slot(int) { return 0; }
__device__ __forceinline__ int row_of_a(int lane, int) { return lane % 16; }
__device__ __forceinline__ int row_of_b(int lane, int) { return lane % 16; }
__device__ __forceinline__ int acc_row(int lane, int e) { return 2 * e + lane / 16; }
__device__ __forceinline__ int acc_col(int lane, int) { return lane % 16; }

#else  // RDNA2 and host code: dot products. The halves' rows of A are 8 apart, so that lane e of
       // each half has the row of element e.

constexpr int kSlots = 1, kLaneRowsA = 1, kLaneRowsB = 1;
__device__ __forceinline__ int slot(int) { return 0; }
__device__ __forceinline__ int row_of_a(int lane, int) { return (lane + lane / 16 * 8) % 16; }
__device__ __forceinline__ int row_of_b(int lane, int) { return lane % 16; }
__device__ __forceinline__ int acc_row(int lane, int e) { return 8 * (lane / 16) + e; }
__device__ __forceinline__ int acc_col(int lane, int) { return lane % 16; }

#endif

constexpr int kMmaDepth = 16 * kSlots;

#if defined(__HIP__)
constexpr int kFewestTileCols = 16;
#else
constexpr int kFewestTileCols = 8;
#endif

// Bytes 0 and 1 (Half 0) or 2 and 3 (Half 1) of a word as two float16 numbers: kHalfOfByte0 more
// than the bytes, since a byte is the lowest bits of a float16 between 1024 and 2048.
constexpr int kHalfOfByte0 = 1024;
template <int Half>
__device__ __forceinline__ uint32_t bytes_as_halves(uint32_t bytes) {
#if defined(__HIP__)
  return __builtin_amdgcn_perm(0x64646464u, bytes, Half ? 0x04030402u : 0x04010400u);
#else
  return __byte_perm(bytes, 0x64646464u, Half ? 0x4342 : 0x4140);
#endif
}

#if defined(__HIP__)
constexpr bool kLoadsTransposed = false;
#endif

// A lane's part of a 16 x (16 / kLaneRowsB * Rows) tile; Tile is all 16 columns.
template <int Rows>
struct TileOf {
  static constexpr int kElements = kAccElements / kLaneRowsB * Rows;
  static constexpr int kCols = 16 / kLaneRowsB * Rows;
  float values[kElements];
};
using Tile = TileOf<kLaneRowsB>;

#if !defined(__HIP__)

constexpr bool kLoadsTransposed = true;

// One instruction: 16 rows of A by 8 of B, 16 values of k. Of rows lane / 4 and lane / 4 + 8 of A a
// lane passes a pair of values each, then a second pair of each; of row lane / 4 of B the same two
// pairs. In the order of accumulators the pairs are of k 2 * (lane % 4) and 8 more.
template <typename T>
__device__ __forceinline__ void multiply_step(float* c, const StepA<T>& a, const StepB<T>& b) {
  if constexpr (std::is_same_v<T, __half>) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "r"(b.words[0]),
          "r"(b.words[1]));
  } else {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "r"(b.words[0]),
          "r"(b.words[1]));
  }
}

// The same of signed bytes, four to a word, 32 values of k; `c` becomes the product and `zero`.
__device__ __forceinline__ void multiply_step(int* c, const StepA<int8_t>& a,
                                              const StepB<int8_t>& b, int zero = 0) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
      "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%10, %10, %10, %10};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a.words[0]), "r"(a.words[1]), "r"(a.words[2]), "r"(a.words[3]), "r"(b.words[0]),
        "r"(b.words[1]), "r"(zero));
}

// Eight rows of eight 16-bit values, of which a lane has values 2 * (lane % 4) and the next of row
// lane / 4, become columns: it gets those of column lane / 4.
__device__ __forceinline__ uint32_t transposed(uint32_t pair) {
  uint32_t result;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(result) : "r"(pair));
  return result;
}

// 16 rows of B for one step: `from` holds value k of row n at k * stride + n, every eight rows
// 16-byte aligned. Pairs come in the order of accumulators.
template <typename T>
__device__ __forceinline__ void load_transposed(const T* from, int stride, StepB<T> (&rows)[2]) {
  const int lane = threadIdx.x % kWaveSize;
  const T* row = from + lane % 16 * stride + lane / 16 * 8;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(rows[0].words[0]), "=r"(rows[0].words[1]), "=r"(rows[1].words[0]),
                 "=r"(rows[1].words[1])
               : "r"(static_cast<uint32_t>(__cvta_generic_to_shared(row)))
               : "memory");
}

// The same for kMmaDepth values of k: words 2 s and 2 s + 1 of a span are of step s.
template <typename T>
__device__ __forceinline__ void load_transposed(const T* from, int stride,
                                                Span<T> (&spans)[kLaneRowsB]) {
#pragma unroll
  for (int s = 0; s < kMmaDepth / 16; ++s) {
    StepB<T> step[2];
    load_transposed(from + 16 * s * stride, stride, step);
#pragma unroll
    for (int i = 0; i < 4; ++i) spans[i / 2].words[2 * s + i % 2] = step[i / 2].words[i % 2];
  }
}

template <typename T, int Rows>
__device__ __forceinline__ void mma(TileOf<Rows>& tile, const Span<T> (&a)[kLaneRowsA],
                                    const Span<T> (&b)[Rows]) {
#pragma unroll
  for (int j = 0; j < Rows; ++j) {
#pragma unroll
    for (int i = 0; i < 8; i += 2) {
      const StepA<T> rows = {{a[0].words[i], a[1].words[i], a[0].words[i + 1], a[1].words[i + 1]}};
      const StepB<T> cols = {{b[j].words[i], b[j].words[i + 1]}};
      multiply_step(tile.values + 4 * j, rows, cols);
    }
  }
}

#elif defined(__GFX9__) || defined(__GFX11__) || defined(__GFX12__)

template <typename Element, int N>
using Vector = Element __attribute__((ext_vector_type(N)));

// One instruction takes kTaken values of k from every lane.
#if defined(__GFX9__)

constexpr int kTaken = 4;
__device__ __forceinline__ Vector<float, 4> multiply(Vector<_Float16, 4> a, Vector<_Float16, 4> b,
                                                     Vector<float, 4> c) {
  return __builtin_amdgcn_mfma_f32_16x16x16f16(a, b, c, 0, 0, 0);
}
__device__ __forceinline__ Vector<float, 4> multiply(Vector<short, 4> a, Vector<short, 4> b,
                                                     Vector<float, 4> c) {
  return __builtin_amdgcn_mfma_f32_16x16x16bf16_1k(a, b, c, 0, 0, 0);
}

#elif defined(__GFX12__)

constexpr int kTaken = 8;
__device__ __forceinline__ Vector<float, 8> multiply(Vector<_Float16, 8> a, Vector<_Float16, 8> b,
                                                     Vector<float, 8> c) {
  return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32_gfx12(a, b, c);
}
__device__ __forceinline__ Vector<float, 8> multiply(Vector<short, 8> a, Vector<short, 8> b,
                                                     Vector<float, 8> c) {
  return __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32_gfx12(a, b, c);
}

#else

constexpr int kTaken = 16;
__device__ __forceinline__ Vector<float, 8> multiply(Vector<_Float16, 16> a, Vector<_Float16, 16> b,
                                                     Vector<float, 8> c) {
  return __builtin_amdgcn_wmma_f32_16x16x16_f16_w32(a, b, c);
}
__device__ __forceinline__ Vector<float, 8> multiply(Vector<short, 16> a, Vector<short, 16> b,
                                                     Vector<float, 8> c) {
  return __builtin_amdgcn_wmma_f32_16x16x16_bf16_w32(a, b, c);
}

#endif

template <typename T>
using Operand = Vector<std::conditional_t<std::is_same_v<T, __half>, _Float16, short>, kTaken>;

template <typename T>
__device__ __forceinline__ Operand<T> operand(const Span<T>& span, int step) {
  Vector<uint32_t, kTaken / 2> words;
#pragma unroll
  for (int i = 0; i < kTaken / 2; ++i) words[i] = span.words[step * kTaken / 2 + i];
  return __builtin_bit_cast(Operand<T>, words);
}

template <typename T>
__device__ __forceinline__ void mma(Tile& tile, const Span<T> (&a)[1], const Span<T> (&b)[1]) {
  Vector<float, kAccElements> c;
#pragma unroll
  for (int e = 0; e < kAccElements; ++e) c[e] = tile.values[e];
#pragma unroll
  for (int step = 0; step < 16 / kTaken; ++step) {
    c = multiply(operand(a[0], step), operand(b[0], step), c);
  }
#pragma unroll
  for (int e = 0; e < kAccElements; ++e) tile.values[e] = c[e];
}

#else

// sum += the first number of a (float16: two numbers) that lane E of each 16 neighbours has, times
// b's. As one instruction each: the compiler would share all rows' words first and run out of
// registers.
template <int E>
__device__ __forceinline__ void add_shared(float& sum, float a, float b) {
#if defined(__GFX10__)
  asm("v_fmac_f32_dpp %0, %1, %2 row_share:%3 row_mask:0xf bank_mask:0xf"
      : "+v"(sum)
      : "v"(a), "v"(b), "n"(E));
#endif
}
template <int E>
__device__ __forceinline__ void add_shared(float& sum, uint32_t a, uint32_t b) {
#if defined(__GFX10__)
  asm("v_dot2c_f32_f16_dpp %0, %1, %2 row_share:%3 row_mask:0xf bank_mask:0xf"
      : "+v"(sum)
      : "v"(a), "v"(b), "n"(E));
#endif
}

template <typename T, int E = 0>
__device__ __forceinline__ void add_word(Tile& tile, uint32_t a, uint32_t b) {
  if constexpr (E < kAccElements) {
    if constexpr (std::is_same_v<T, __half>) {
      add_shared<E>(tile.values[E], a, b);
    } else {
      constexpr uint32_t kHigh = 0xffff0000u;
      add_shared<E>(tile.values[E], __uint_as_float(a << 16), __uint_as_float(b << 16));
      add_shared<E>(tile.values[E], __uint_as_float(a & kHigh), __uint_as_float(b & kHigh));
    }
    add_word<T, E + 1>(tile, a, b);
  }
}

template <typename T>
__device__ __forceinline__ void mma(Tile& tile, const Span<T> (&a)[1], const Span<T> (&b)[1]) {
#pragma unroll
  for (int i = 0; i < 8; ++i) add_word<T>(tile, a[0].words[i], b[0].words[i]);
}

#endif

}  // namespace rocmforge::gpu
