// Look-up tables of the types whose codes are indices of a grid: words from device memory, or from
// copies in LDS that the blocks of a kernel make once.
//
// A trait with tables has
//   kGridEntries, kSignEntries   rows of its grid; rows of the table of signs, 128 or 0
//   grid_entry(i)                row i of its grid, in device memory
#pragma once

#include "hip/quants/codebooks.h"

namespace rocmforge::gpu {

template <int N>
struct Words {
  uint32_t words[N];
};

// Rows of eight bytes, all of them among `levels`, as selectors of select_8_bytes: the numbers of
// the levels.
template <int N>
constexpr Words<N> level_selectors(const uint64_t (&grid)[N], const uint8_t (&levels)[3]) {
  Words<N> selectors{};
  for (int n = 0; n < N; ++n) {
    for (int i = 0; i < 8; ++i) {
      const auto byte = static_cast<uint8_t>(grid[n] >> (8 * i));
      const uint32_t level = byte == levels[0] ? 0 : byte == levels[1] ? 1 : 2;
      selectors.words[n] |= level << selector_shift(i);
    }
  }
  return selectors;
}

// Of eight values by a 7-bit index; their number is even, so that the eighth sign follows. Selector
// 4 for a negative value, 0 for another.
constexpr Words<128> sign_selectors() {
  Words<128> selectors{};
  for (int n = 0; n < 128; ++n) {
    int odd = 0;
    for (int i = 0; i < 8; ++i) {
      const int negative = i < 7 ? n >> i & 1 : odd;
      odd ^= negative;
      selectors.words[n] |= static_cast<uint32_t>(4 * negative) << selector_shift(i);
    }
  }
  return selectors;
}

static __device__ constexpr Words<128> kSignSelectors = sign_selectors();

// The tables where they are. grid<kFrom>(word) is the row whose number stands in word from bit
// kFrom on; grid<kLow, kHigh>(low, high) has 8 bits of the number in one word and the others in a
// second.
template <class T>
struct MemoryTables {
  template <int kFrom>
  __device__ __forceinline__ uint32_t grid(uint32_t word) const {
    return T::grid_entry(word >> kFrom & (T::kGridEntries - 1));
  }
  template <int kLow, int kHigh>
  __device__ __forceinline__ uint32_t grid(uint32_t low, uint32_t high) const {
    return T::grid_entry((low >> kLow & 255) | ((high >> kHigh << 8) & (T::kGridEntries - 256)));
  }
  template <int kFrom>
  __device__ __forceinline__ uint32_t signs(uint32_t word) const {
    return kSignSelectors.words[word >> kFrom & 127];
  }
};

constexpr int log2_of(int n) { return n == 1 ? 0 : 1 + log2_of(n / 2); }

// Bits [kFrom, ...) of a word moved to bit kTo.
template <int kFrom, int kTo>
__device__ __forceinline__ uint32_t moved(uint32_t word) {
  if constexpr (kFrom >= kTo) {
    return word >> (kFrom - kTo);
  } else {
    return word << (kTo - kFrom);
  }
}

// Copies in LDS, each in banks of its own: word i of copy c stands at i * copies + c. A lane reads
// the copy of its number, which `lane_bytes` points to; addresses are put together by masks.
template <int kEntries>
struct SharedTable {
  static constexpr int copies(int n) {
    return n < 32 && 2 * n * kEntries * 4 <= kTableCopiesBytes ? copies(2 * n) : n;
  }
  static constexpr int kCopies = copies(1), kWords = kEntries * kCopies;
  static constexpr int kShift = log2_of(4 * kCopies);  // from a row's number to its bytes
  const uint8_t* words;
  uint32_t lane_bytes;

  __device__ __forceinline__ explicit SharedTable(const uint32_t* words)
      : words(reinterpret_cast<const uint8_t*>(words)), lane_bytes(threadIdx.x % kCopies * 4) {}
  __device__ __forceinline__ uint32_t at(uint32_t bytes) const {
    return *reinterpret_cast<const uint32_t*>(words + bytes);
  }
  template <int kFrom>
  __device__ __forceinline__ uint32_t row(uint32_t word) const {
    return at((moved<kFrom, kShift>(word) & ((kEntries - 1) << kShift)) | lane_bytes);
  }
  template <int kLow, int kHigh>
  __device__ __forceinline__ uint32_t row(uint32_t low, uint32_t high) const {
    const uint32_t part = (moved<kLow, kShift>(low) & (255 << kShift)) | lane_bytes;
    return at((moved<kHigh, kShift + 8>(high) & ((kEntries - 256) << kShift)) | part);
  }

  // Four words a thread: of one row and four copies, or of four rows.
  template <typename Entry>
  static __device__ __forceinline__ void fill(uint32_t* words, Entry entry) {
#pragma unroll 4
    for (int i = threadIdx.x; i < kWords / 4; i += blockDim.x) {
      uint4 four;
      if constexpr (kCopies >= 4) {
        const uint32_t word = entry(i / (kCopies / 4));
        four = {word, word, word, word};
      } else {
        static_assert(kCopies == 1);
        four = {entry(4 * i), entry(4 * i + 1), entry(4 * i + 2), entry(4 * i + 3)};
      }
      reinterpret_cast<uint4*>(words)[i] = four;
    }
  }
};

template <>
struct SharedTable<0> {
  static constexpr int kWords = 0;
  __device__ __forceinline__ explicit SharedTable(const uint32_t*) {}
  template <typename Entry>
  static __device__ __forceinline__ void fill(uint32_t*, Entry) {}
};

template <class T>
struct SharedTables {
  using Grid = SharedTable<T::kGridEntries>;
  using Signs = SharedTable<T::kSignEntries>;
  static constexpr int kWords = Grid::kWords + Signs::kWords;
  Grid grids;
  Signs sign_rows;

  __device__ __forceinline__ explicit SharedTables(const uint32_t* words)
      : grids(words), sign_rows(words + Grid::kWords) {}
  template <int kFrom>
  __device__ __forceinline__ uint32_t grid(uint32_t word) const {
    return grids.template row<kFrom>(word);
  }
  template <int kLow, int kHigh>
  __device__ __forceinline__ uint32_t grid(uint32_t low, uint32_t high) const {
    return grids.template row<kLow, kHigh>(low, high);
  }
  template <int kFrom>
  __device__ __forceinline__ uint32_t signs(uint32_t word) const {
    return sign_rows.template row<kFrom>(word);
  }

  // By all threads of a block, who then have to meet.
  static __device__ __forceinline__ void fill(uint32_t* words) {
    Grid::fill(words, [](uint32_t i) { return T::grid_entry(i); });
    Signs::fill(words + Grid::kWords, [](uint32_t i) { return kSignSelectors.words[i]; });
  }
};

// Of a type without tables.
struct NoTables {
  static constexpr int kWords = 0;
  __device__ __forceinline__ explicit NoTables(const uint32_t*) {}
  static __device__ __forceinline__ void fill(uint32_t*) {}
};

template <class T, typename = void>
struct TablesOf {
  using Shared = NoTables;
};
template <class T>
struct TablesOf<T, std::void_t<decltype(T::kGridEntries)>> {
  using Shared = SharedTables<T>;
};

// Tables that a kernel copies into LDS: kWords words, filled by fill(), read through an object.
template <class T>
using LdsTables = typename TablesOf<T>::Shared;

// Group G with the tables of a kernel.
template <class T, int G>
__device__ __forceinline__ Group decode_group(const typename T::Raw& raw, int step,
                                              const LdsTables<T>& tables) {
  if constexpr (LdsTables<T>::kWords > 0) {
    return T::template decode<G>(raw, step, tables);
  } else {
    return T::template decode<G>(raw, step);
  }
}

}  // namespace rocmforge::gpu
