// TQ1_0 and TQ2_0: weights of -1, 0 and 1 with one scale per 256.
#pragma once

#include "hip/quants/traits.h"

namespace rocmforge::gpu {

// Four bytes hold base-3 fractions of 256. What they come to times a power of 3, up to 243, without
// what is behind the point: bytes too.
__device__ __forceinline__ uint32_t times_power(uint32_t bytes, uint32_t power) {
  constexpr uint32_t kEven = 0x00ff00ff;
  const uint32_t even = (bytes & kEven) * power, odd = (bytes >> 8 & kEven) * power;
  return select_bytes(even, odd, byte_selector(1, 5, 3, 7));
}

// The first ternary digit after as many as make `power`, up to 81, have been shifted out.
__device__ __forceinline__ int ternary_digits(uint32_t bytes, uint32_t power) {
  constexpr uint32_t kEven = 0x00ff00ff;
  const uint32_t even = (bytes & kEven) * power & kEven;
  const uint32_t odd = (bytes >> 8 & kEven) * power & kEven;
  return static_cast<int>(select_bytes(even * 3, odd * 3, byte_selector(1, 5, 3, 7)));
}

constexpr uint32_t power_of_3(int n) { return n == 0 ? 1 : 3 * power_of_3(n - 1); }

// 32 bytes of five digits (160 weights), 16 bytes of five (80), 4 bytes of four (16). A step has
// half of the first, and of the rest groups of 16 by turns.
struct TQ1_0 : FourGroups {
  static constexpr int kType = 34, kBlock = 256, kBytes = 54, kGroups = 8, kOffset = 1;
  static constexpr bool kMins = false;
  enum { kBody, kTail, kLast, kScale };
  static constexpr Field kFields[] = {{0, 32}, {32, 16}, {48, 4}, {52, 2}};
  struct Raw {
    uint32_t body[4];
    uint32_t tail[4];
    uint32_t last[1];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kBody>(view, block, 16 * step, raw.body);
    read_words<kTail>(view, block, 0, raw.tail);
    read_words<kLast>(view, block, 0, raw.last);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    Group group{{}, half_bits(raw.d), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (G < 5) {
        // A digit is what is left of three times what came before it; no byte borrows.
        const uint32_t now = times_power(raw.body[i], power_of_3(G + 1));
        const uint32_t before = G == 0 ? 0 : times_power(raw.body[i], power_of_3(G));
        group.codes[i] = static_cast<int>(now - 3 * before);
      } else {
        constexpr int kDigit = 2 * (G - 5);
        const bool last = G == 7 && step == 1;
        // A value first: a choice between places in memory would keep `raw` there.
        const uint32_t tail = raw.tail[i], end = raw.last[0];
        const uint32_t later = G == 7 ? power_of_3(i) : power_of_3(kDigit + 1);
        group.codes[i] = ternary_digits(last ? end : tail, step == 0 ? power_of_3(kDigit) : later);
      }
    }
    return group;
  }
};

// A step is 32 bytes, whose four fields of 2 bits are 32 weights apart.
struct TQ2_0 {
  static constexpr int kType = 35, kBlock = 256, kBytes = 66, kGroups = 8, kSpan = 2, kOffset = 1;
  static constexpr bool kMins = false;
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{0, 64}, {64, 2}};
  struct Raw {
    uint32_t codes[8];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 32 * step, raw.codes);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int) {
    Group group{{}, half_bits(raw.d), 0.0f};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      group.codes[i] = static_cast<int>(raw.codes[4 * (G & 1) + i] >> (G / 2 * 2) & 0x03030303);
    }
    return group;
  }
  template <int G>
  static constexpr __device__ __forceinline__ int first(int step) {
    return 128 * step + 16 * G;
  }
};

}  // namespace rocmforge::gpu
