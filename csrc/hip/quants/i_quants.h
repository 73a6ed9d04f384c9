// IQ1 to IQ4: code books of 8 or 4 values with signs, and non-linear 4-bit levels.
#pragma once

#include "hip/quants/simple.h"
#include "hip/quants/tables.h"
#include "hip/quants/traits.h"

namespace rocmforge::gpu {

constexpr uint8_t kIq2Levels[3] = {8, 25, 43};

static __device__ constexpr auto kIq2XxsGrid = level_selectors(iq2xxs_grid, kIq2Levels);
static __device__ constexpr auto kIq2XsGrid = level_selectors(iq2xs_grid, kIq2Levels);
static __device__ constexpr auto kIq2SGrid = level_selectors(iq2s_grid, kIq2Levels);

// Eight bytes of low and high by selectors, which are one word or two.
__device__ __forceinline__ void pick_8_codes(uint32_t low, uint32_t high, uint32_t selectors,
                                             int* codes) {
  uint32_t bytes[2];
  select_8_bytes(low, high, selectors, bytes);
  codes[0] = static_cast<int>(bytes[0]), codes[1] = static_cast<int>(bytes[1]);
}
__device__ __forceinline__ void pick_8_codes(uint32_t low, uint32_t high, uint2 selectors,
                                             int* codes) {
  codes[0] = static_cast<int>(select_bytes(low, high, selectors.x));
  codes[1] = static_cast<int>(select_bytes(low, high, selectors.y));
}

// Sign selectors of eight values from the low eight bits.
__device__ __forceinline__ uint32_t selectors_of_bits(uint32_t bits) {
  if constexpr (selector_shift(4) == 4) {  // the first four to every eighth bit, then the others
    const uint32_t low = (bits & 15) * (4 * 0x00204081) & 0x04040404;
    return low | ((bits >> 4 & 15) * (64 * 0x00204081) & 0x40404040);
  } else {  // to every fourth bit
    const uint32_t fours = (bits & 255) * 0x1001 & 0x000f000f;
    const uint32_t twos = fours * 0x41 & 0x03030303;
    return twos * 0x24 & 0x44444444;
  }
}

// Steps of all these types: 64 weights, groups 0 and 1 of the first 32.
struct GridStep {
  static constexpr int kBlock = 256, kGroups = 4, kOffset = 0;
  static constexpr bool kMins = false;
  static constexpr int kSignWords = 0;
  static constexpr bool kFieldGrid = false, kSelectors = true;
  template <int G>
  static constexpr __device__ __forceinline__ int first(int step) {
    return 64 * step + 16 * G;
  }
};

// A row of the grid and one of signs are selectors of eight values: levels, and 4 where negative.
struct Iq2Step : GridStep {
  static constexpr int kSignWords = 1, kLevels = 2;
  static constexpr __device__ __forceinline__ uint32_t level(int i) {
    return i == 0 ? 0x002b1908 : 0x00d5e7f8;  // positive, negative
  }
  template <class Tables>
  static __device__ __forceinline__ void values(const Tables& tables, uint32_t grid, uint2 signs,
                                                int* codes) {
    pick_8_codes(tables.level(0), tables.level(1), grid | signs.x, codes);
  }
  template <class Tables>
  static __device__ __forceinline__ void values(const Tables& tables, uint2 grid, uint2 signs,
                                                int* codes) {
    const uint2 selectors = {grid.x | signs.x, grid.y | signs.y};
    pick_8_codes(tables.level(0), tables.level(1), selectors, codes);
  }
};

struct IQ2_XXS : Iq2Step {
  static constexpr int kType = 16, kBytes = 66, kSpan = 2, kGridEntries = 256;
  enum { kParts, kScale };
  static constexpr Field kFields[] = {{2, 64}, {0, 2}};
  struct Raw {
    uint32_t parts[4];  // twice: four grid indices; four 7-bit sign indices and a 4-bit scale
    uint16_t d;
  };
  static __device__ __forceinline__ uint32_t grid_entry(uint32_t i) { return kIq2XxsGrid.words[i]; }
  static __device__ __forceinline__ uint2 sign_row(uint32_t byte) {
    return {kSignSelectors.words[byte & 127], 0};
  }
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kParts>(view, block, 16 * step, raw.parts);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G, class Tables = MemoryTables<IQ2_XXS>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int, const Tables& tables = {}) {
    const uint32_t index = raw.parts[G / 2 * 2], signs = raw.parts[G / 2 * 2 + 1];
    Group group{{}, half_bits(raw.d) * linear_bits<28, 4>(signs, 0.25f, 0.125f), 0.0f};
    for_each_group<2>([&](auto i) {
      constexpr int n = 2 * (G & 1) + i;
      values(tables, tables.template grid<n>(index), tables.template signs<n>(signs << n),
             group.codes + 2 * i);
    });
    return group;
  }
};

struct IQ2_XS : Iq2Step {
  static constexpr int kType = 17, kBytes = 74, kSpan = 1, kGridEntries = 512;
  static constexpr bool kFieldGrid = true;
  enum { kCodes, kScales, kScale };
  static constexpr Field kFields[] = {{2, 64}, {66, 8}, {0, 2}};
  struct Raw {
    uint32_t codes[4];  // pairs of a 9-bit grid index and a 7-bit sign index
    uint16_t scales;    // four nibbles
    uint16_t d;
  };
  static __device__ __forceinline__ uint32_t grid_entry(uint32_t i) { return kIq2XsGrid.words[i]; }
  static __device__ __forceinline__ uint2 sign_row(uint32_t byte) {
    return {kSignSelectors.words[byte >> 1], 0};
  }
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 16 * step, raw.codes);
    raw.scales = read_u16<kScales>(view, block, 2 * step);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G, class Tables = MemoryTables<IQ2_XS>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int, const Tables& tables = {}) {
    const float number = linear_bits<4 * G, 4>(raw.scales, 0.25f, 0.125f);
    Group group{{}, half_bits(raw.d) * number, 0.0f};
    for_each_group<2>([&](auto i) {
      values(tables, tables.template field<16 * i>(raw.codes[G]),
             tables.template signs<2 * i + 1>(raw.codes[G]), group.codes + 2 * i);
    });
    return group;
  }
};

struct IQ2_S : Iq2Step {
  static constexpr int kType = 22, kBytes = 82, kSpan = 1, kGridEntries = 1024;
  enum { kCodes, kSigns, kHigh, kScales, kScale };
  static constexpr Field kFields[] = {{2, 32}, {34, 32}, {66, 8}, {74, 8}, {0, 2}};
  struct Raw {
    uint32_t codes[2];
    uint32_t signs[2];
    uint16_t high;    // bits 8 and 9 of eight grid indices
    uint16_t scales;  // four nibbles
    uint16_t d;
  };
  static __device__ __forceinline__ uint32_t grid_entry(uint32_t i) { return kIq2SGrid.words[i]; }
  static __device__ __forceinline__ uint2 sign_row(uint32_t byte) {
    return {selectors_of_bits(byte), 0};
  }
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 8 * step, raw.codes);
    read_words<kSigns>(view, block, 8 * step, raw.signs);
    raw.high = read_u16<kHigh>(view, block, 2 * step);
    raw.scales = read_u16<kScales>(view, block, 2 * step);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G, class Tables = MemoryTables<IQ2_S>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int, const Tables& tables = {}) {
    const float number = linear_bits<4 * G, 4>(raw.scales, 0.25f, 0.125f);
    Group group{{}, half_bits(raw.d) * number, 0.0f};
    for_each_group<2>([&](auto i) {
      constexpr int n = 2 * G + i;
      values(tables, tables.template grid<n % 4, 2 * n>(raw.codes[n / 4], raw.high),
             tables.template signs<n % 4>(raw.signs[n / 4]), group.codes + 2 * i);
    });
    return group;
  }
};

struct IQ3_XXS : GridStep {
  static constexpr int kType = 18, kBytes = 98, kSpan = 2, kGridEntries = 256;
  static constexpr int kSignWords = 2;
  static constexpr bool kSelectors = false;
  enum { kCodes, kSigns, kScale };
  static constexpr Field kFields[] = {{2, 64}, {66, 32}, {0, 2}};
  struct Raw {
    uint32_t codes[4];
    uint32_t signs[2];  // four 7-bit sign indices and a 4-bit scale
    uint16_t d;
  };
  static __device__ __forceinline__ uint32_t grid_entry(uint32_t i) { return iq3xxs_grid[i]; }
  // Ones where negative.
  static __device__ __forceinline__ uint2 sign_row(uint32_t byte) {
    uint32_t ones[2];
    select_8_bytes(0, 0x01010101, kSignSelectors.words[byte & 127], ones);
    return {ones[0], ones[1]};
  }
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 16 * step, raw.codes);
    read_words<kSigns>(view, block, 8 * step, raw.signs);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G, class Tables = MemoryTables<IQ3_XXS>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int, const Tables& tables = {}) {
    const uint32_t packed = raw.signs[G / 2];
    Group group{{}, half_bits(raw.d) * linear_bits<28, 4>(packed, 0.5f, 0.25f), 0.0f};
    for_each_group<2>([&](auto i) {
      constexpr int n = 2 * (G & 1) + i;
      const uint2 ones = tables.template signs<n>(packed << n);
      // No byte borrows from the next, since none is 0.
      const uint32_t low = tables.template grid<2 * i>(raw.codes[G]) - ones.x;
      const uint32_t high = tables.template grid<2 * i + 1>(raw.codes[G]) - ones.y;
      group.codes[2 * i] = static_cast<int>(low ^ ones.x * 255);
      group.codes[2 * i + 1] = static_cast<int>(high ^ ones.y * 255);
    });
    return group;
  }
};

struct IQ3_S : GridStep {
  static constexpr int kType = 21, kBytes = 110, kSpan = 2, kGridEntries = 512;
  static constexpr int kSignWords = 2;
  static constexpr bool kSelectors = false;
  enum { kCodes, kSigns, kHigh, kScales, kScale };
  static constexpr Field kFields[] = {{2, 64}, {74, 32}, {66, 8}, {106, 4}, {0, 2}};
  struct Raw {
    uint32_t codes[4];
    uint32_t signs[2];
    uint16_t high;   // bit 8 of sixteen grid indices
    uint8_t scales;  // two nibbles
    uint16_t d;
  };
  static __device__ __forceinline__ uint32_t grid_entry(uint32_t i) { return iq3s_grid[i]; }
  // What changes when a value is negated: the magnitudes are odd, so that their lowest bit stays.
  static __device__ __forceinline__ uint2 sign_row(uint32_t byte) {
    return {bits_to_bytes(byte) * 0xfeu, bits_to_bytes(byte >> 4) * 0xfeu};
  }
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 16 * step, raw.codes);
    read_words<kSigns>(view, block, 8 * step, raw.signs);
    raw.high = read_u16<kHigh>(view, block, 2 * step);
    raw.scales = read_u8<kScales>(view, block, step);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G, class Tables = MemoryTables<IQ3_S>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int, const Tables& tables = {}) {
    Group group{{}, half_bits(raw.d) * linear_bits<G / 2 * 4, 4>(raw.scales, 2.0f, 1.0f), 0.0f};
    for_each_group<2>([&](auto i) {
      const uint2 signs = tables.template signs<2 * (G & 1) + i>(raw.signs[G / 2]);
      constexpr int n = 2 * i, high = 4 * G + n;
      const uint32_t words[2] = {tables.template grid<n, high>(raw.codes[G], raw.high),
                                 tables.template grid<n + 1, high + 1>(raw.codes[G], raw.high)};
      group.codes[n] = static_cast<int>(words[0] ^ signs.x);
      group.codes[n + 1] = static_cast<int>(words[1] ^ signs.y);
    });
    return group;
  }
};

// IQ1 weights are scale * (g + 1/8) or scale * (g - 1/8) with g of -1, 0, 1. The codes are 8 g + 1
// or 8 g - 1 under an eighth of the scale, which is the same number exactly.
constexpr uint8_t kIq1Levels[3] = {0xff, 0, 1};
static __device__ constexpr auto kIq1Grid = level_selectors(iq1s_grid, kIq1Levels);
constexpr uint32_t kIq1Plus = 0x000901f9, kIq1Minus = 0x0007fff7;  // -7, 1, 9 and -9, -1, 7

template <class Selectors>
__device__ __forceinline__ void shifted_levels(Selectors levels, bool minus, int* codes) {
  const uint32_t choice = minus ? kIq1Minus : kIq1Plus;
  pick_8_codes(choice, choice, levels, codes);
}

struct IQ1_S : GridStep {
  static constexpr int kType = 19, kBytes = 50, kSpan = 2, kGridEntries = 2048;
  enum { kCodes, kHigh, kScale };
  static constexpr Field kFields[] = {{2, 32}, {34, 16}, {0, 2}};
  struct Raw {
    uint32_t codes[2];
    uint32_t high[1];  // twice: four times 3 high index bits, a 3-bit scale, the shift's sign
    uint16_t d;
  };
  static __device__ __forceinline__ uint32_t grid_entry(uint32_t i) { return kIq1Grid.words[i]; }
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 8 * step, raw.codes);
    read_words<kHigh>(view, block, 4 * step, raw.high);
    raw.d = read_u16<kScale>(view, block);
    return raw;
  }
  template <int G, class Tables = MemoryTables<IQ1_S>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int, const Tables& tables = {}) {
    const uint32_t high = raw.high[0] >> (G / 2 * 16);
    Group group{{}, half_bits(raw.d) * linear_bits<12, 3>(high, 0.25f, 0.125f), 0.0f};
    for_each_group<2>([&](auto i) {
      constexpr int n = 2 * (G & 1) + i;
      const auto levels =
          tables.template grid<n, G / 2 * 16 + 3 * n>(raw.codes[G / 2], raw.high[0]);
      shifted_levels(levels, high >> 15 & 1, group.codes + 2 * i);
    });
    return group;
  }
};

struct IQ1_M : GridStep {
  // The sign of the shift stands above the index: where tables have room for both signs, it is a
  // part of it.
  static constexpr bool kSignedGrid = kCopiesTables;
  static constexpr int kType = 29, kBytes = 56, kSpan = 1, kGridEntries = kSignedGrid ? 4096 : 2048;
  static constexpr int kLevels = 2;
  static constexpr __device__ __forceinline__ uint32_t level(int i) {
    return i == 0 ? kIq1Plus : kIq1Minus;
  }
  enum { kCodes, kHigh, kScales };
  static constexpr Field kFields[] = {{0, 32}, {32, 16}, {48, 8}};
  struct Raw {
    uint32_t codes[2];
    uint32_t high[1];    // per 8 weights: 3 high index bits, the sign of the shift
    uint32_t scales[2];  // four times: four 3-bit scales, 4 bits of the super-block's float16
  };
  static __device__ __forceinline__ uint32_t grid_entry(uint32_t i) {
    return kIq1Grid.words[i & 2047] | (i >> 11) * 0x44444444;
  }
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 8 * step, raw.codes);
    read_words<kHigh>(view, block, 4 * step, raw.high);
    read_words<kScales>(view, block, 0, raw.scales);
    return raw;
  }
  template <int G, class Tables = MemoryTables<IQ1_M>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step,
                                                 const Tables& tables = {}) {
    const uint32_t low = raw.scales[0], high = raw.scales[1];
    const float d = half_bits(static_cast<uint16_t>((low >> 12 & 0xf) | (low >> 24 & 0xf0) |
                                                    (high >> 4 & 0xf00) | (high >> 16 & 0xf000)));
    const uint32_t scales = (step & 2 ? high : low) >> (16 * (step & 1));
    Group group{{}, d * linear_bits<3 * G, 3>(scales, 0.25f, 0.125f), 0.0f};
    for_each_group<2>([&](auto i) {
      constexpr int n = 2 * G + i;
      const auto levels = tables.template grid<n % 4, 4 * n>(raw.codes[n / 4], raw.high[0]);
      if constexpr (kSignedGrid) {
        pick_8_codes(tables.level(0), tables.level(1), levels, group.codes + 2 * i);
      } else {
        shifted_levels(levels, raw.high[0] & 8u << (4 * n), group.codes + 2 * i);
      }
    });
    return group;
  }
};

struct IQ4_NL : Block32<IQ4_NL, 4> {
  static constexpr int kType = 20, kBytes = 18, kOffset = 0, kHalvesApart = 16;
  static constexpr bool kMins = false;
  static constexpr int kLevels = 4;
  static constexpr __device__ __forceinline__ uint32_t level(int i) { return kIq4Levels.words[i]; }
  enum { kCodes, kScale };
  static constexpr Field kFields[] = {{2, 16}, {0, 2}};
  template <int G, class Tables = KnownLevels<IQ4_NL>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int, const Tables& tables = {}) {
    Group group{{}, half_bits(raw.d), 0.0f};
    int halves[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      look_up_halves(tables, raw.codes[i], halves[0], halves[1]);
      group.codes[i] = halves[G];
    }
    return group;
  }
};

// A step is two sub-blocks of 32.
struct IQ4_XS : GridStep {
  static constexpr int kType = 23, kBytes = 136, kSpan = 2, kHalvesApart = 16;
  static constexpr int kLevels = 4;
  static constexpr __device__ __forceinline__ uint32_t level(int i) { return kIq4Levels.words[i]; }
  enum { kCodes, kScales, kScale };
  static constexpr Field kFields[] = {{8, 128}, {4, 4}, {0, 4}};
  struct Raw {
    uint32_t codes[8];
    uint32_t scales[1];  // the low 4 bits of eight scales
    uint32_t d[1];       // the float16 scale, and the top two bits of eight scales
  };
  template <class View>
  static __device__ __forceinline__ Raw load(const View& view, int block, int step) {
    Raw raw;
    read_words<kCodes>(view, block, 32 * step, raw.codes);
    read_words<kScales>(view, block, 0, raw.scales);
    read_words<kScale>(view, block, 0, raw.d);
    return raw;
  }
  template <int G, class Tables = KnownLevels<IQ4_XS>>
  static __device__ __forceinline__ Group decode(const Raw& raw, int step,
                                                 const Tables& tables = {}) {
    const uint32_t low = raw.scales[0] >> (8 * step), high = raw.d[0] >> (16 + 4 * step);
    const uint32_t number = (low >> (G / 2 * 4) & 15) | (high << 4 >> (G / 2 * 2) & 0x30);
    Group group{{}, low_half(raw.d[0]) * linear_field(number, 63, 1.0f, -32.0f), 0.0f};
    int halves[2];
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      look_up_halves(tables, raw.codes[G / 2 * 4 + i], halves[0], halves[1]);
      group.codes[i] = halves[G & 1];
    }
    return group;
  }
};

}  // namespace rocmforge::gpu
