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

// The tables where they are.
template <class T>
struct MemoryTables {
  __device__ __forceinline__ uint32_t grid(uint32_t i) const { return T::grid_entry(i); }
  __device__ __forceinline__ uint32_t signs(uint32_t i) const { return kSignSelectors.words[i]; }
};

// Copies in LDS, each in banks of its own: word i of copy c stands at i * copies + c. A lane reads
// the copy of its number.
template <int kEntries>
struct SharedTable {
  static constexpr int copies(int n) {
    return n < 32 && 2 * n * kEntries * 4 <= kTableCopiesBytes ? copies(2 * n) : n;
  }
  static constexpr int kCopies = copies(1), kWords = kEntries * kCopies;
  const uint32_t* copy;  // of this lane

  __device__ __forceinline__ explicit SharedTable(const uint32_t* words)
      : copy(words + threadIdx.x % kCopies) {}
  __device__ __forceinline__ uint32_t operator[](uint32_t i) const { return copy[i * kCopies]; }

  template <typename Entry>
  static __device__ __forceinline__ void fill(uint32_t* words, Entry entry) {
    for (int i = threadIdx.x; i < kWords; i += blockDim.x) words[i] = entry(i / kCopies);
  }
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
  __device__ __forceinline__ uint32_t grid(uint32_t i) const { return grids[i]; }
  __device__ __forceinline__ uint32_t signs(uint32_t i) const { return sign_rows[i]; }

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
