// Q4_0 to Q8_1, Q8_K and Q1_0: one scale (and one minimum) per block.
#pragma once

#include "hip/quants/traits.h"

namespace rocmforge::gpu {

// Blocks of 32 weights in one step: what T::load reads, which is fields kCodes and kScale.
template <class T, int kCodeWords>
struct Block32 : WholeBlock {
  static constexpr int kBlock = 32, kGroups = 2;
  struct Raw {
    uint32_t codes[kCodeWords];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<T::kCodes>(view, block, 0, raw.codes);
    raw.d = read_u16<T::kScale>(view, block);
    return raw;
  }
};

// The same with a scale and a minimum.
template <class T>
struct Block32WithMin : WholeBlock {
  static constexpr int kBlock = 32, kGroups = 2;
  struct Raw {
    uint32_t codes[4];
    uint32_t dm[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<T::kCodes>(view, block, 0, raw.codes);
    read_words<T::kScale>(view, block, 0, raw.dm);
    return raw;
  }
};

// One of the two with field kHigh, bit 4 of the codes.
template <class T, class Base>
struct FifthBits : Base {
  struct Raw : Base::Raw {
    uint32_t high[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    static_cast<typename Base::Raw&>(raw) = Base::load(view, block, step);
    read_words<T::kHigh>(view, block, 0, raw.high);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ void add(const Raw& raw, int (&codes)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const uint32_t bits = raw.high[0] >> (16 * G + 4 * i) & 15;
      codes[i] |= static_cast<int>(bits * 0x02040810 & 0x10101010);
    }
  }
};

// 4 bits, the first 16 weights in the low halves of 16 bytes.
struct Q4_0 : Block32<Q4_0, 4> {
  static constexpr int kType = 2, kBytes = 18, kOffset = 8;
  static constexpr bool kMins = false;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{2, 16}, {0, 2}};
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
    nibbles<G>(raw.codes, group.codes);
    return group;
  }
};

struct Q4_1 : Block32WithMin<Q4_1> {
  static constexpr int kType = 3, kBytes = 20, kOffset = 0;
  static constexpr bool kMins = true;
  static constexpr float kCentre = 7.5f;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{4, 16}, {0, 4}};
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, low_half(raw.dm[0]), high_half(raw.dm[0])};
    nibbles<G>(raw.codes, group.codes);
    return group;
  }
};

struct Q5_0 : FifthBits<Q5_0, Block32<Q5_0, 4>> {
  static constexpr int kType = 6, kBytes = 22, kOffset = 16;
  static constexpr bool kMins = false;
  enum { kCodes, kHigh, kScale };
  static constexpr Field kFields[] = {{6, 16}, {2, 4}, {0, 2}};
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
    nibbles<G>(raw.codes, group.codes);
    add<G>(raw, group.codes);
    return group;
  }
};

struct Q5_1 : FifthBits<Q5_1, Block32WithMin<Q5_1>> {
  static constexpr int kType = 7, kBytes = 24, kOffset = 0;
  static constexpr bool kMins = true;
  static constexpr float kCentre = 15.5f;
  enum { kCodes, kHigh, kScale };
  static constexpr Field kFields[] = {{8, 16}, {4, 4}, {0, 4}};
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, low_half(raw.dm[0]), high_half(raw.dm[0])};
    nibbles<G>(raw.codes, group.codes);
    add<G>(raw, group.codes);
    return group;
  }
};

// 8 bits.
template <class T>
struct Bytes32 : Block32<T, 8> {
  static constexpr int kOffset = 0;
  static constexpr bool kMins = false;
  template <int G>
  static __device__ __forceinline__ Group decode(const typename Block32<T, 8>::Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] = static_cast<int>(raw.codes[4 * G + i]);
    return group;
  }
};

struct Q8_0 : Bytes32<Q8_0> {
  static constexpr int kType = 8, kBytes = 34;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{2, 32}, {0, 2}};
};

// Q8_0 with the sum of its codes, which the weights do not need.
struct Q8_1 : Bytes32<Q8_1> {
  static constexpr int kType = 9, kBytes = 36;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{4, 32}, {0, 4}};
};

// 256 signed bytes under a float32 scale, and sums that the weights do not need.
struct Q8_K : WholeBlock {
  static constexpr int kType = 15, kBlock = 256, kBytes = 292, kGroups = 2, kSpan = 2, kOffset = 0;
  static constexpr bool kMins = false;
  enum { kCodes, kSums, kScale };
  static constexpr Field kFields[] = {{4, 256}, {260, 32}, {0, 4}};
  struct Raw {
    uint32_t codes[8];
    uint32_t d[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 32 * step, raw.codes);
    read_words<kScale>(view, block, 0, raw.d);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, __uint_as_float(raw.d[0]), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] = static_cast<int>(raw.codes[4 * G + i]);
    return group;
  }
  template <int G>
  static constexpr __device__ __forceinline__ int first(int step) {
    return 32 * step + 16 * G;
  }
};

// 128 signs: a bit that is set means +d, else -d. The codes are 0 and twice the offset.
struct Q1_0 : WholeBlock {
  static constexpr int kType = 41, kBlock = 128, kBytes = 18, kGroups = 8;
  static constexpr int kOffset = kSpreadBit / 2;
  static constexpr bool kMins = false;
  enum { kBits, kScale };
  static constexpr Field kFields[] = {{2, 16}, {0, 2}};
  struct Raw {
    uint32_t bits[4];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kBits>(view, block, 0, raw.bits);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d) * (1.0f / kOffset), 0.0f};
    for_each_group<4>([&](auto i) {
      constexpr int kFrom = 16 * (G & 1) + 4 * i;
      group.codes[i] = static_cast<int>(spread_bits<kFrom>(raw.bits[G / 2]));
    });
    return group;
  }

  // One mask gives a bit of each byte: bit j as 2^j. The sums of four such planes are put together
  // afterwards, as 8 for every bit.
  static constexpr float kDotUnit = kOffset / 4.0f;
  template <int U>
  static __device__ __forceinline__ int dot(const Raw& raw, const uint4& low, const uint4& high) {
    const uint32_t x[2][4] = {{low.x, low.y, low.z, low.w}, {high.x, high.y, high.z, high.w}};
    int planes[4];
    for_each_group<4>([&](auto j) {
      planes[j] = j == 3 ? kDotZero : 0;
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const uint32_t bits = raw.bits[U] >> (4 * half) & 0x01010101u << j;
        planes[j] = dot4(static_cast<int>(bits), static_cast<int>(x[half][j]), planes[j]);
      }
    });
    return planes[3] + 2 * planes[2] + 4 * planes[1] + 8 * planes[0];
  }
};

}  // namespace rocmforge::gpu
