// Look-up tables of the types whose codes are indices of a grid: words from device memory, or from
// copies in LDS that the blocks of a kernel make once.
//
// A trait with tables has
//   kGridEntries, grid_entry(i)   a power of two, and word i of its grid
//   kFieldGrid                    whether grid indices stand in one word as they are; otherwise
//                                 their low eight bits are a byte, and the rest stands elsewhere
//   kSignWords, sign_row(byte)    the words, none to two, that a byte of signs stands for
//   kHasLevels, level(i)          whether it chooses bytes from two words, which a kernel keeps
#pragma once

#include "hip/quants/bytes.h"
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

// Bits [kFrom, ...) of a word moved to bit kTo.
template <int kFrom, int kTo>
__device__ __forceinline__ uint32_t moved(uint32_t word) {
  if constexpr (kFrom >= kTo) {
    return word >> (kFrom - kTo);
  } else {
    return word << (kTo - kFrom);
  }
}

constexpr int log2_of(int n) { return n == 1 ? 0 : 1 + log2_of(n / 2); }

// The tables where they are. grid<kByte>(word) is the entry of the number in a byte of a word,
// grid<kByte, kHigh>(word, high) has the number's other bits from bit kHigh of a second word on;
// field<kFrom>(word) has all of them from bit kFrom on. signs<kByte>(word) is a byte's row of signs.
template <class T>
struct MemoryTables {
  template <int kByte>
  __device__ __forceinline__ uint32_t grid(uint32_t word) const {
    return T::grid_entry(word >> (8 * kByte) & 255);
  }
  template <int kByte, int kHigh>
  __device__ __forceinline__ uint32_t grid(uint32_t word, uint32_t high) const {
    const uint32_t low = word >> (8 * kByte) & 255;
    return T::grid_entry(low | (moved<kHigh, 8>(high) & (T::kGridEntries - 256)));
  }
  template <int kFrom>
  __device__ __forceinline__ uint32_t field(uint32_t word) const {
    return T::grid_entry(word >> kFrom & (T::kGridEntries - 1));
  }
  template <int kByte>
  __device__ __forceinline__ uint2 signs(uint32_t word) const {
    return T::sign_row(word >> (8 * kByte) & 255);
  }
  __device__ __forceinline__ uint32_t level(int i) const { return T::level(i); }
};

// One copy in LDS, the grid before the rows of signs.
template <class T>
struct CompactTables {
  static constexpr int kGridWords = T::kGridEntries, kWords = kGridWords + 256 * T::kSignWords;
  const uint8_t* grid_bytes;
  const uint8_t* sign_bytes;

  __device__ __forceinline__ explicit CompactTables(const uint32_t* words)
      : grid_bytes(reinterpret_cast<const uint8_t*>(words)),
        sign_bytes(reinterpret_cast<const uint8_t*>(words + kGridWords)) {}
  __device__ __forceinline__ uint32_t entry(uint32_t bytes) const {
    return *reinterpret_cast<const uint32_t*>(grid_bytes + bytes);
  }
  template <int kByte>
  __device__ __forceinline__ uint32_t grid(uint32_t word) const {
    return entry(moved<8 * kByte, 2>(word) & 0x3fc);
  }
  template <int kByte, int kHigh>
  __device__ __forceinline__ uint32_t grid(uint32_t word, uint32_t high) const {
    const uint32_t low = moved<8 * kByte, 2>(word) & 0x3fc;
    return entry(low | (moved<kHigh, 10>(high) & 4 * (T::kGridEntries - 256)));
  }
  template <int kFrom>
  __device__ __forceinline__ uint32_t field(uint32_t word) const {
    return entry(moved<kFrom, 2>(word) & 4 * (T::kGridEntries - 1));
  }
  template <int kByte>
  __device__ __forceinline__ uint2 signs(uint32_t word) const {
    if constexpr (T::kSignWords == 1) {
      const uint32_t at = moved<8 * kByte, 2>(word) & 0x3fc;
      return {*reinterpret_cast<const uint32_t*>(sign_bytes + at), 0};
    } else {
      const uint32_t at = moved<8 * kByte, 3>(word) & 0x7f8;
      return *reinterpret_cast<const uint2*>(sign_bytes + at);
    }
  }
  __device__ __forceinline__ uint32_t level(int i) const { return T::level(i); }

  // By all threads of a block, who then have to meet.
  static __device__ __forceinline__ void fill(uint32_t* words) {
#pragma unroll 4
    for (int i = threadIdx.x; i < kGridWords; i += blockDim.x) words[i] = T::grid_entry(i);
    if constexpr (T::kSignWords > 0) {
      for (int i = threadIdx.x; i < 256; i += blockDim.x) {
        const uint2 row = T::sign_row(i);
        uint32_t* to = words + kGridWords + T::kSignWords * i;
        to[0] = row.x;
        if constexpr (T::kSignWords == 2) to[1] = row.y;
      }
    }
  }
};

// Copies in LDS, each in banks of its own, so that lanes rarely wait for each other. What a byte
// stands for begins at 256 times the byte, so that one instruction puts an address together from a
// word and the place of a lane's copy. Such a row is, of entries i + 256 h of the grid,
// copies of h = 0, copies of h = 1 and so on; its second half is the row of signs, if there is one.
// With kFieldGrid entry i of the grid begins at 128 times i, for 64 bytes, and signs behind it.
template <class T>
struct StripedTables {
  static constexpr int kRows = 256, kPieces = 16;  // of 16 bytes, in a row
  static constexpr int kHighs = T::kFieldGrid ? 1 : T::kGridEntries / 256;
  static constexpr int kGridBytes = T::kFieldGrid ? 64 : T::kSignWords > 0 ? 128 : 256;
  static constexpr int kGridCopies = kGridBytes / (4 * kHighs);
  static constexpr int kSignAt = kGridBytes, kSignBytes = T::kFieldGrid ? 64 : 128;
  static constexpr int kSignCopies = T::kSignWords > 0 ? kSignBytes / (4 * T::kSignWords) : 1;
  static constexpr int kTableWords = kRows * 64, kWords = kTableWords + (T::kHasLevels ? 4 : 0);
  static constexpr uint32_t kRowSelectors = 0x5504;  // zeros above the byte above the lane's

  const uint8_t* bytes;
  uint32_t grid_lane, sign_lane;
  uint32_t levels[2];

  __device__ __forceinline__ explicit StripedTables(const uint32_t* words)
      : bytes(reinterpret_cast<const uint8_t*>(words)),
        grid_lane(threadIdx.x % kGridCopies * 4),
        sign_lane(threadIdx.x % kSignCopies * (4 * T::kSignWords)) {
    // From LDS, since the compiler would make constants anew for every use.
    if constexpr (T::kHasLevels) {
      levels[0] = words[kTableWords], levels[1] = words[kTableWords + 1];
    }
  }
  __device__ __forceinline__ uint32_t entry(uint32_t at) const {
    return *reinterpret_cast<const uint32_t*>(bytes + at);
  }
  template <int kByte>
  __device__ __forceinline__ uint32_t grid(uint32_t word) const {
    return entry(pick_bytes(word, grid_lane, kRowSelectors | kByte << 4));
  }
  template <int kByte, int kHigh>
  __device__ __forceinline__ uint32_t grid(uint32_t word, uint32_t high) const {
    constexpr int kTo = log2_of(4 * kGridCopies);
    const uint32_t row = pick_bytes(word, grid_lane, kRowSelectors | kByte << 4);
    return entry(row | (moved<kHigh, kTo>(high) & ((kHighs - 1) << kTo)));
  }
  template <int kFrom>
  __device__ __forceinline__ uint32_t field(uint32_t word) const {
    return entry((moved<kFrom, 7>(word) & ((T::kGridEntries - 1) << 7)) | grid_lane);
  }
  template <int kByte>
  __device__ __forceinline__ uint2 signs(uint32_t word) const {
    const uint32_t at = pick_bytes(word, sign_lane, kRowSelectors | kByte << 4);
    if constexpr (T::kSignWords == 1) {
      return {*reinterpret_cast<const uint32_t*>(bytes + at + kSignAt), 0};
    } else {
      return *reinterpret_cast<const uint2*>(bytes + at + kSignAt);
    }
  }
  __device__ __forceinline__ uint32_t level(int i) const { return levels[i]; }

  // By all threads of a block, who then have to meet.
  static __device__ __forceinline__ void fill(uint32_t* words) {
#pragma unroll 4
    for (int i = threadIdx.x; i < kRows * kPieces; i += blockDim.x) {
      const int row = i / kPieces, at = i % kPieces * 16;
      const int before = T::kFieldGrid ? at % 128 : at;
      uint4 four;
      if (before < kGridBytes) {
        const int high = at / (4 * kGridCopies);
        const int n = T::kFieldGrid ? 2 * row + at / 128 : row + 256 * high;
        const uint32_t word = T::grid_entry(n);
        four = {word, word, word, word};
      } else if constexpr (T::kSignWords > 0) {
        const uint2 signs = T::sign_row(row);
        four = {signs.x, T::kSignWords == 1 ? signs.x : signs.y, signs.x,
                T::kSignWords == 1 ? signs.x : signs.y};
      }
      reinterpret_cast<uint4*>(words)[i] = four;
    }
    if constexpr (T::kHasLevels) {
      if (threadIdx.x < 2) words[kTableWords + threadIdx.x] = T::level(threadIdx.x);
    }
  }
};

template <class T>
using SharedTables =
    std::conditional_t<(kTableCopiesBytes > 0), StripedTables<T>, CompactTables<T>>;

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
