// Q4_0 to Q8_1, Q8_K and Q1_0: one scale (and one minimum) per block.
#pragma once

#include "hip/quants/traits.h"

namespace rocmforge::gpu {

// 32 weights of 4 bits, the first 16 in the low halves of 16 bytes. One step is a whole block.
struct Q4_0 : WholeBlock {
  static constexpr int kType = 2, kBlock = 32, kBytes = 18, kGroups = 2, kOffset = 8;
  static constexpr bool kMins = false;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{2, 16}, {0, 2}};
  struct Raw {
    uint32_t codes[4];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
    nibbles<G>(raw.codes, group.codes);
    return group;
  }
};

struct Q4_1 : WholeBlock {
  static constexpr int kType = 3, kBlock = 32, kBytes = 20, kGroups = 2, kOffset = 0;
  static constexpr bool kMins = true;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{4, 16}, {0, 4}};
  struct Raw {
    uint32_t codes[4];
    uint32_t dm[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    read_words<kScale>(view, block, 0, raw.dm);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, low_half(raw.dm[0]), high_half(raw.dm[0])};
    nibbles<G>(raw.codes, group.codes);
    return group;
  }
};

// Bit 4 of 16 codes, from the 32 bits of a block.
template <int G>
__device__ __forceinline__ void add_fifth_bits(uint32_t bits, int (&codes)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) codes[i] |= bits_to_bytes(bits >> (16 * G + 4 * i)) << 4;
}

struct Q5_0 : WholeBlock {
  static constexpr int kType = 6, kBlock = 32, kBytes = 22, kGroups = 2, kOffset = 16;
  static constexpr bool kMins = false;
  enum { kCodes, kHigh, kScale };
  static constexpr Field kFields[] = {{6, 16}, {2, 4}, {0, 2}};
  struct Raw {
    uint32_t codes[4];
    uint32_t high[1];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    read_words<kHigh>(view, block, 0, raw.high);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
    nibbles<G>(raw.codes, group.codes);
    add_fifth_bits<G>(raw.high[0], group.codes);
    return group;
  }
};

struct Q5_1 : WholeBlock {
  static constexpr int kType = 7, kBlock = 32, kBytes = 24, kGroups = 2, kOffset = 0;
  static constexpr bool kMins = true;
  enum { kCodes, kHigh, kScale };
  static constexpr Field kFields[] = {{8, 16}, {4, 4}, {0, 4}};
  struct Raw {
    uint32_t codes[4];
    uint32_t high[1];
    uint32_t dm[1];
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    read_words<kHigh>(view, block, 0, raw.high);
    read_words<kScale>(view, block, 0, raw.dm);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, low_half(raw.dm[0]), high_half(raw.dm[0])};
    nibbles<G>(raw.codes, group.codes);
    add_fifth_bits<G>(raw.high[0], group.codes);
    return group;
  }
};

struct Q8_0 : WholeBlock {
  static constexpr int kType = 8, kBlock = 32, kBytes = 34, kGroups = 2, kOffset = 0;
  static constexpr bool kMins = false;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{2, 32}, {0, 2}};
  struct Raw {
    uint32_t codes[8];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] = static_cast<int>(raw.codes[4 * G + i]);
    return group;
  }
};

// Q8_0 with the sum of its codes, which the weights do not need.
struct Q8_1 : WholeBlock {
  static constexpr int kType = 9, kBlock = 32, kBytes = 36, kGroups = 2, kOffset = 0;
  static constexpr bool kMins = false;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{4, 32}, {0, 4}};
  struct Raw {
    uint32_t codes[8];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int) {
    Raw raw;
    read_words<kCodes>(view, block, 0, raw.codes);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) group.codes[i] = static_cast<int>(raw.codes[4 * G + i]);
    return group;
  }
};

// 256 signed bytes under a float32 scale, and sums that the weights do not need.
struct Q8_K : WholeBlock {
  static constexpr int kType = 15, kBlock = 256, kBytes = 292, kGroups = 2, kOffset = 0;
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
  static __device__ __forceinline__ int first(int step) {
    return 32 * step + 16 * G;
  }
};

// 128 signs: a bit that is set means +d, else -d.
struct Q1_0 : WholeBlock {
  static constexpr int kType = 41, kBlock = 128, kBytes = 18, kGroups = 8, kOffset = 1;
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
    Group group{{}, half_bits(raw.d), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      group.codes[i] = bits_to_bytes(raw.bits[G / 2] >> (16 * (G & 1) + 4 * i)) << 1;
    }
    return group;
  }
};

}  // namespace rocmforge::gpu
