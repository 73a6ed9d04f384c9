// TQ1_0 and TQ2_0: weights of -1, 0 and 1 with one scale per 256.
#pragma once

#include "hip/quants/traits.h"

namespace rocmforge::gpu {

constexpr uint32_t power_of_3(int n) { return n == 0 ? 1 : 3 * power_of_3(n - 1); }

// Four fractions of 256, whose digits to base 3 are weights: 16 bits to each, of which 8 are used.
struct Fractions {
  static constexpr uint32_t kEven = 0x00ff00ff;
  uint32_t even, odd;

  static __device__ __forceinline__ Fractions of(uint32_t bytes) {
    return {bytes & kEven, bytes >> 8 & kEven};
  }
  // Without as many digits as make `power`, up to 81.
  __device__ __forceinline__ Fractions behind(uint32_t power) const {
    return {even * power & kEven, odd * power & kEven};
  }
  // What they come to times a power of 3, up to 243, without what is behind the point: bytes too.
  __device__ __forceinline__ uint32_t times(uint32_t power) const {
    return select_bytes(even * power, odd * power, byte_selector(1, 5, 3, 7));
  }
  // Digit N is what is left of three times what came before it; no byte borrows.
  template <int N>
  __device__ __forceinline__ int digits() const {
    const uint32_t before = N == 0 ? 0 : times(power_of_3(N));
    return static_cast<int>(times(power_of_3(N + 1)) - 3 * before);
  }
};

// 32 bytes of five digits (160 weights), 16 bytes of five (80), 4 bytes of four (16). A step has
// half of the bytes of each, or of the digits of the last: of every 32 weights eight, and the eight
// that are 16 behind.
struct TQ1_0 {
  static constexpr int kType = 34, kBlock = 256, kBytes = 54, kGroups = 8, kSpan = 1, kOffset = 1;
  static constexpr int kHalfApart = 16;
  static constexpr bool kMins = false;
  enum { kBody, kTail, kLast, kScale };
  static constexpr Field kFields[] = {{0, 32}, {32, 16}, {48, 4}, {52, 2}};
  struct Raw {
    uint32_t body[2][2];
    uint32_t tail[2];
    uint32_t last[1];
    uint16_t d;
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kBody>(view, block, 8 * step, raw.body[0]);
    read_words<kBody>(view, block, 16 + 8 * step, raw.body[1]);
    read_words<kTail>(view, block, 8 * step, raw.tail);
    read_words<kLast>(view, block, 0, raw.last);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step) {
    Group group{{}, half_bits(raw.d), 0.0f};
    for_each_group<4>([&](auto i) {
      constexpr int half = i / 2;
      if constexpr (G < 5) {
        group.codes[i] = Fractions::of(raw.body[half][i % 2]).template digits<G>();
      } else if constexpr (G < 7 || half == 0) {
        constexpr int digit = 2 * (G - 5) + half;
        group.codes[i] = Fractions::of(raw.tail[i % 2]).template digits<digit>();
      } else {
        const Fractions last = Fractions::of(raw.last[0]).behind(step == 0 ? 1 : 9);
        group.codes[i] = last.template digits<i % 2>();
      }
    });
    return group;
  }
  template <int G>
  static constexpr __device__ __forceinline__ int first(int step) {
    return 32 * G + 8 * step;
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
