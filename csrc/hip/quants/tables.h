// Look-up tables of the types whose codes are indices of a grid: words from device memory, or from
// copies in LDS that the blocks of a kernel make once.
//
// A trait with levels has kLevels and level(i), kLevels words to choose bytes from. A trait with
// tables has
//   kGridEntries, grid_entry(i)   a power of two, and word i of its grid
//   kFieldGrid                    whether grid indices stand in one word as they are; otherwise
//                                 their low eight bits are a byte, and the rest stands elsewhere
//   kSelectors                    whether entries and rows are selectors of eight values
//   kSignWords, sign_row(byte)    the words, none to two, that a byte of signs stands for
#pragma once

#include "hip/quants/codebooks.h"
#include "hip/quants/traits.h"

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

// Words of a type that the compiler would make anew for every use if it knew that they are
// constants: a kernel reads them from LDS.
constexpr bool kKeepsLevels = kCopiesTables;

template <class T>
struct KnownLevels {
  static constexpr int kWords = 0;
  KnownLevels() = default;
  __device__ __forceinline__ explicit KnownLevels(const uint32_t*) {}
  static __device__ __forceinline__ void fill(uint32_t*) {}
  __device__ __forceinline__ uint32_t level(int i) const { return T::level(i); }
};

template <class T>
struct KeptLevels {
  static constexpr int kWords = (T::kLevels + 3) / 4 * 4;
  uint32_t words[T::kLevels];

  __device__ __forceinline__ explicit KeptLevels(const uint32_t* from) {
#pragma unroll
    for (int i = 0; i < T::kLevels; ++i) words[i] = from[i];
  }
  // By all threads of a block, who then have to meet.
  static __device__ __forceinline__ void fill(uint32_t* to) {
    const auto i = static_cast<int>(threadIdx.x);
    if (i < T::kLevels) to[i] = T::level(i);
  }
  __device__ __forceinline__ uint32_t level(int i) const { return words[i]; }
};

template <class T, typename = void>
constexpr int kLevels = 0;
template <class T>
constexpr int kLevels<T, std::void_t<decltype(T::kLevels)>> = T::kLevels;

template <class T>
using SharedLevels =
    std::conditional_t<kKeepsLevels && (kLevels<T> > 0), KeptLevels<T>, KnownLevels<T>>;

// The tables where they are. grid<kByte>(word) is the entry of the number in a byte of a word,
// grid<kByte, kHigh>(word, high) has the number's other bits from bit kHigh of a second word on;
// field<kFrom>(word) has all of them from bit kFrom on. signs<kByte>(word) is a byte's row of
// signs.
template <class T>
struct MemoryTables : KnownLevels<T> {
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
};

// Selectors of eight values as two words that no mask has to cut.
__device__ __forceinline__ uint2 wide_selectors(uint32_t selectors) {
  return {selectors & 0x0f0f0f0f, selectors >> 4 & 0x0f0f0f0f};
}

// One copy in LDS, the grid before the rows of signs. Selectors take two words.
template <class T>
struct CompactTables : KnownLevels<T> {
  using Entry = std::conditional_t<T::kSelectors, uint2, uint32_t>;
  static constexpr int kSignWords = T::kSelectors ? 2 * T::kSignWords : T::kSignWords;
  static constexpr int kGridWords = T::kGridEntries * static_cast<int>(sizeof(Entry)) / 4;
  static constexpr int kWords = kGridWords + 256 * kSignWords;
  static constexpr int kShift = T::kSelectors ? 3 : 2;  // from a number to its bytes
  const uint8_t* bytes;

  // `words`: the start of the kernel's LDS.
  __device__ __forceinline__ explicit CompactTables(const uint32_t* words)
      : bytes(reinterpret_cast<const uint8_t*>(words)) {}
  __device__ __forceinline__ Entry entry(uint32_t at) const { return read_lds<Entry>(bytes, at); }
  template <int kByte>
  __device__ __forceinline__ Entry grid(uint32_t word) const {
    return entry(moved<8 * kByte, kShift>(word) & 255 << kShift);
  }
  template <int kByte, int kHigh>
  __device__ __forceinline__ Entry grid(uint32_t word, uint32_t high) const {
    const uint32_t low = moved<8 * kByte, kShift>(word) & 255 << kShift;
    return entry(low | (moved<kHigh, kShift + 8>(high) & (T::kGridEntries - 256) << kShift));
  }
  template <int kFrom>
  __device__ __forceinline__ Entry field(uint32_t word) const {
    return entry(moved<kFrom, kShift>(word) & (T::kGridEntries - 1) << kShift);
  }
  template <int kByte>
  __device__ __forceinline__ uint2 signs(uint32_t word) const {
    static_assert(kSignWords == 2);
    return read_lds<uint2>(bytes, 4 * kGridWords + (moved<8 * kByte, 3>(word) & 0x7f8));
  }

  // By all threads of a block, who then have to meet.
  static __device__ __forceinline__ void fill(uint32_t* words) {
    auto* entries = reinterpret_cast<Entry*>(words);
#pragma unroll 4
    for (int i = threadIdx.x; i < T::kGridEntries; i += blockDim.x) {
      if constexpr (T::kSelectors) {
        entries[i] = wide_selectors(T::grid_entry(i));
      } else {
        entries[i] = T::grid_entry(i);
      }
    }
    if constexpr (kSignWords > 0) {
      auto* rows = reinterpret_cast<uint2*>(words + kGridWords);
      for (int i = threadIdx.x; i < 256; i += blockDim.x) {
        const uint2 row = T::sign_row(i);
        rows[i] = T::kSelectors ? wide_selectors(row.x) : row;
      }
    }
  }
};

// Copies in LDS, each in banks of its own, so that lanes rarely wait for each other, as many as go
// into 64 KiB. Where the low bits of an index are a byte, what the byte stands for begins at 256
// times the byte, so that one instruction puts an address together from a word and the place of a
// lane's copy. Such a row is, of entries i + 256 h of the grid, copies of h = 0, copies of h = 1
// and so on; its second half is the row of signs, if there is one. With kFieldGrid entry i of the
// grid begins at 128 times i, for 64 bytes, and signs behind it.
//
// kWide: a grid of 512 entries has 32 copies, and rows of signs of 128 bytes stand behind it.
template <class T, bool kWide>
struct StripedTables : SharedLevels<T> {
  static constexpr bool kApart = kWide && T::kGridEntries == 512;  // signs, from the grid
  static constexpr int kSignBytes = T::kSignWords == 0 ? 0 : T::kFieldGrid && !kApart ? 64 : 128;
  static constexpr int kHighs = T::kFieldGrid ? 1 : T::kGridEntries / 256;
  static constexpr int kRowBytes = T::kFieldGrid ? 128 : 256;
  static constexpr int kGridBytes = kRowBytes - (kApart ? 0 : kSignBytes);  // of a row
  static constexpr int kEntryBytes = kGridBytes / kHighs, kGridCopies = kEntryBytes / 4;
  static constexpr int kSignCopies = T::kSignWords > 0 ? kSignBytes / (4 * T::kSignWords) : 1;
  static constexpr int kGridRows = T::kFieldGrid ? T::kGridEntries : 256;
  static constexpr int kGridWords = kGridRows * kRowBytes / 4;
  static constexpr int kSignFrom = T::kFieldGrid ? 1 : 0;  // bit of a byte, below which is no sign
  static constexpr int kSignRows = 256 >> kSignFrom;
  static constexpr int kTableWords = kGridWords + (kApart ? kSignRows * kSignBytes / 4 : 0);
  static constexpr int kWords = kTableWords + SharedLevels<T>::kWords;
  static constexpr uint32_t kRowSelectors = 0x5504;  // zeros above the byte above the lane's

  const uint8_t* bytes;
  uint32_t grid_lane, sign_lane;

  __device__ __forceinline__ explicit StripedTables(const uint32_t* words)
      : SharedLevels<T>(words + kTableWords),
        bytes(reinterpret_cast<const uint8_t*>(words)),
        grid_lane(threadIdx.x % kGridCopies * 4),
        sign_lane(threadIdx.x % kSignCopies * (4 * T::kSignWords)) {}
  __device__ __forceinline__ uint32_t entry(uint32_t at) const {
    return *reinterpret_cast<const uint32_t*>(bytes + at);
  }
  template <int kByte>
  __device__ __forceinline__ uint32_t grid(uint32_t word) const {
    return entry(select_bytes(word, grid_lane, kRowSelectors | kByte << 4));
  }
  template <int kByte, int kHigh>
  __device__ __forceinline__ uint32_t grid(uint32_t word, uint32_t high) const {
    constexpr int kTo = log2_of(kEntryBytes);
    const uint32_t row = select_bytes(word, grid_lane, kRowSelectors | kByte << 4);
    return entry(row | (moved<kHigh, kTo>(high) & ((kHighs - 1) << kTo)));
  }
  template <int kFrom>
  __device__ __forceinline__ uint32_t field(uint32_t word) const {
    constexpr int kTo = log2_of(kRowBytes);
    return entry((moved<kFrom, kTo>(word) & ((T::kGridEntries - 1) << kTo)) | grid_lane);
  }
  template <int kByte>
  __device__ __forceinline__ uint2 signs(uint32_t word) const {
    uint32_t at;
    if constexpr (kApart) {
      constexpr int kFrom = 8 * kByte + kSignFrom, kTo = log2_of(kSignBytes);
      at = ((moved<kFrom, kTo>(word) & (kSignRows - 1) << kTo) | sign_lane) + 4 * kGridWords;
    } else {
      at = select_bytes(word, sign_lane, kRowSelectors | kByte << 4) + kGridBytes;
    }
    if constexpr (T::kSignWords == 1) {
      return {*reinterpret_cast<const uint32_t*>(bytes + at), 0};
    } else {
      return *reinterpret_cast<const uint2*>(bytes + at);
    }
  }

  // By all threads of a block, who then have to meet.
  static __device__ __forceinline__ void fill(uint32_t* words) {
    fill_rows<kGridRows, kRowBytes / 16>(words, [](int row, int at) {
      if (!kApart && at >= kGridBytes) return signs_of(T::kFieldGrid ? row / 2 : row);
      const uint32_t word = T::grid_entry(row + 256 * (at / kEntryBytes));
      return uint2{word, word};
    });
    if constexpr (kApart) {
      fill_rows<kSignRows, kSignBytes / 16>(
          words + kGridWords, [](int row, int) { return signs_of(row << kSignFrom); });
    }
    SharedLevels<T>::fill(words + kTableWords);
  }

 private:
  // The row of signs of a byte, one word or two of them, as two words.
  static __device__ __forceinline__ uint2 signs_of(int byte) {
    if constexpr (T::kSignWords == 2) {
      return T::sign_row(byte);
    } else if constexpr (T::kSignWords == 1) {
      const uint32_t word = T::sign_row(byte).x;
      return {word, word};
    } else {
      return {};
    }
  }
  // Rows of kPieces times 16 bytes, which are the two words of pair_of(row, byte in it), again and
  // again. A thread asks memory for some before it stores them.
  template <int kRows, int kPieces, class PairOf>
  static __device__ __forceinline__ void fill_rows(uint32_t* words, PairOf pair_of) {
    constexpr int kAtOnce = 8;
    const int at = static_cast<int>(threadIdx.x) % kPieces;
    const int stride = static_cast<int>(blockDim.x) / kPieces;
    auto* const to = reinterpret_cast<uint4*>(words) + at;
#pragma unroll 1
    for (int first = static_cast<int>(threadIdx.x) / kPieces; first < kRows;
         first += kAtOnce * stride) {
      uint2 pairs[kAtOnce];
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        pairs[k] = pair_of(smaller(first + k * stride, kRows - 1), 16 * at);
      }
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        const int row = first + k * stride;
        const uint4 piece = {pairs[k].x, pairs[k].y, pairs[k].x, pairs[k].y};
        if (row < kRows) to[row * kPieces] = piece;
      }
    }
  }
};

template <class T, bool kWide>
using SharedTables = std::conditional_t<kCopiesTables, StripedTables<T, kWide>, CompactTables<T>>;

template <class T, typename = void>
constexpr bool kHasGrid = false;
template <class T>
constexpr bool kHasGrid<T, std::void_t<decltype(T::kGridEntries)>> = true;

// 16 levels for a kernel that has x in the order of the halves of bytes. Of a selector above 7
// comes the sign of a byte instead of the byte: from the first eight levels 0, or -1 if they are
// negative, for which the others make up; from these 0.
template <class T>
struct PairedLevels : KeptLevels<T> {
  static constexpr uint32_t kSigns = 0x80808080;
  static constexpr bool kNegative = (T::level(0) & T::level(1) & kSigns) == kSigns;
  static_assert(kNegative || ((T::level(0) | T::level(1)) & kSigns) == 0);
  static_assert(((T::level(2) | T::level(3)) & kSigns) == 0);

  __device__ __forceinline__ explicit PairedLevels(const uint32_t* from) : KeptLevels<T>(from) {
    if constexpr (kNegative) this->words[2] += 0x01010101, this->words[3] += 0x01010101;
  }
  // sum + levels of the halves of four bytes . eight values of x.
  __device__ __forceinline__ int dot(uint32_t bytes, uint32_t first, uint32_t last, int sum) const {
    const uint32_t others = bytes ^ 0x88888888;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const auto x = static_cast<int>(i == 0 ? first : last);
      const uint32_t low = select_bytes(this->words[0], this->words[1], bytes >> (16 * i));
      const uint32_t high = select_bytes(this->words[2], this->words[3], others >> (16 * i));
      sum = dot4(static_cast<int>(high), x, dot4(static_cast<int>(low), x, sum));
    }
    return sum;
  }
};

// Tables that a kernel copies into LDS: kWords words, filled by fill(), read through an object.
// kWide: for a kernel that has room for more than 64 KiB of them.
template <class T, bool kWide = false>
using LdsTables = std::conditional_t<kHasGrid<T>, SharedTables<T, kWide>, SharedLevels<T>>;

// LDS that a kernel's tables take, in bytes. Where weights are copied behind them, whole lines.
template <class Tables>
constexpr int kTableBytes =
    kCopiesAhead ? (4 * Tables::kWords + 127) / 128 * 128 : 4 * Tables::kWords;

// Group G with the tables of a kernel.
template <class T, int G, class Tables>
__device__ __forceinline__ Group decode_group(const typename T::Raw& raw, int step,
                                              const Tables& tables) {
  if constexpr (LdsTables<T>::kWords > 0) {
    return T::template decode<G>(raw, step, tables);
  } else {
    return T::template decode<G>(raw, step);
  }
}

}  // namespace rocmforge::gpu
