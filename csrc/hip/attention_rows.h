// How a wave takes matrix fragments (mma.h: StepB, pairs of k) from 16 rows of keys or values that
// stand in LDS as the cache has them. For each format
//   kSteps                       steps of a group of dims; a step is 16 dims of keys
//   key_dim(n, t, s, half)       what pair `half` of step s of group n is for lanes t of four
//   load_keys(row, n, t, ...)    the lane's part of group n, of one key
//   kRowsApart                   see below
//   value_dim(n, i, column)      which dim a column of tile i of group n of values is; a group is
//                                64 dims, a tile eight
//   load_values(rows, n, lane, ...)
// Which value is which k or column is free, as long as queries and results agree: so words are used
// where they stand, and two blocks whose codes are not at whole words share what is between them.
#pragma once

#include "hip/cache_formats.h"

namespace rocmforge::gpu {

constexpr int kRowsStaged = 16;

template <class Format, int kBucket>
struct RowShape {
  static constexpr int kHeadBytes = kBucket / Format::kBlock * Format::kBytes;
  // What heads start at multiples of, and how they are copied; blocks need whole words.
  static constexpr int kGrain = Format::kBlock == 1    ? 16
                                : kHeadBytes % 16 == 0 ? 16
                                : kHeadBytes % 8 == 0  ? 8
                                                       : 4;
  static_assert(kHeadBytes % kGrain == 0);
  // Memory is read by sectors, and a sector that goes to two of LDS is read twice: a head stands in
  // its row at the place that it has in its first sector. Blocks are copied as whole sectors. With
  // 16 bits a value more is lost in the banks: there rows are an odd number of half sectors apart.
  static constexpr int kSector = Format::kBytes == 2 ? 16 : 32, kMostPlace = kSector - kGrain;
  static constexpr int kSectors = (kHeadBytes + kMostPlace + kSector - 1) / kSector;
  static constexpr int kUnits = Format::kBlock == 1 ? kHeadBytes / 16 : kSectors * 2;
  static constexpr int kStride = kSector * (kSectors | 1);  // neighbouring rows meet other banks
  static constexpr int kBytes = kRowsStaged * kStride;
};

// The 16 rows: row r starts r strides after `first`.
struct StagedRows {
  const uint8_t* first;
  int stride;
  __device__ __forceinline__ const uint8_t* row(int r) const { return first + r * stride; }
};

// The row of the key that is number k of eight for matrix units. Where lanes read pairs of k
// themselves, not by load_transposed, the pairs are of rows apart, so that lanes' rows are
// neighbours, which are in different banks.
template <bool kRowsApart>
__device__ __forceinline__ int key_row(int k) {
  return kRowsApart ? k / 2 + k % 2 * 4 : k;
}
// The rows of a lane's two pairs of keys.
__device__ __forceinline__ int pair_row(int lane, int i) {
  return key_row<true>(lane % 4 * 2 + i % 2) + i / 2 * 8;
}

__device__ __forceinline__ uint32_t lds_word(const uint8_t* from, int i) {
  return reinterpret_cast<const uint32_t*>(from)[i];
}

// Four bytes of two rows side by side: bytes 0 and 1 of each, or 2 and 3.
template <int Half>
__device__ __forceinline__ uint32_t side_by_side(uint32_t even, uint32_t odd) {
  return select_bytes(even, odd, Half ? byte_selector(2, 6, 3, 7) : byte_selector(0, 4, 1, 5));
}

// Formats without blocks, in 16-byte units.
template <class Format, int kBucket>
struct RowFragments {
  static constexpr int kUnitDims = 16 / Format::kBytes, kUnits = kBucket / kUnitDims;
  static constexpr int kSteps = kUnitDims / 4;
  static constexpr bool kRowsApart = Format::kBytes == 1;

  // Two neighbouring units to a lane or, where rows are whole sectors, every other sector to two
  // lanes, if there are enough: no two lanes meet in a bank.
  static __device__ __forceinline__ int unit(int n, int t) {
    const int first = n / 2 * 8;
    if (first + 8 > kUnits) return first + t;
    return first + (Format::kBytes == 2 ? 2 * t + n % 2 : n % 2 * 2 + t / 2 * 4 + t % 2);
  }
  static __device__ __forceinline__ int key_dim(int n, int t, int s, int half) {
    return unit(n, t) * kUnitDims + 4 * s + 2 * half;
  }
  template <typename T>
  static __device__ __forceinline__ void load_keys(const uint8_t* row, int n, int t,
                                                   StepB<T> (&steps)[kSteps]) {
    const uint4 v = reinterpret_cast<const uint4*>(row)[unit(n, t)];
    const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      if constexpr (Format::kBytes == 2) {
        steps[s] = {{words[2 * s], words[2 * s + 1]}};
      } else {
        steps[s] = {{Format::template halves<0>(words[s]), Format::template halves<1>(words[s])}};
      }
    }
  }

  static __device__ __forceinline__ int value_dim(int n, int i, int column) {
    return Format::kBytes == 2 ? 64 * n + 8 * i + column : 64 * n + 8 * column + i;
  }
  template <typename T>
  static __device__ __forceinline__ void load_values(const StagedRows& rows, int n, int lane,
                                                     StepB<T> (&tiles)[8]) {
    if constexpr (Format::kBytes == 2) {
      const T* from = reinterpret_cast<const T*>(rows.first) + 64 * n;
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        StepB<T> two[2];
        load_transposed(from + 8 * i, rows.stride / 2, two);
        tiles[i] = two[0], tiles[i + 1] = two[1];
      }
    } else {
#pragma unroll
      for (int k = 0; k < 2; ++k) {
        const int at = 64 * n + lane / 4 * 8;
        const uint8_t* even = rows.row(pair_row(lane, 2 * k)) + at;
        const uint8_t* odd = rows.row(pair_row(lane, 2 * k + 1)) + at;
        const uint2 a = *reinterpret_cast<const uint2*>(even);
        const uint2 b = *reinterpret_cast<const uint2*>(odd);
#pragma unroll
        for (int w = 0; w < 2; ++w) {
          const uint32_t low = side_by_side<0>(w ? a.y : a.x, w ? b.y : b.x);
          const uint32_t high = side_by_side<1>(w ? a.y : a.x, w ? b.y : b.x);
          tiles[4 * w].words[k] = Format::template halves<0>(low);
          tiles[4 * w + 1].words[k] = Format::template halves<1>(low);
          tiles[4 * w + 2].words[k] = Format::template halves<0>(high);
          tiles[4 * w + 3].words[k] = Format::template halves<1>(high);
        }
      }
    }
  }
};

// Blocks of 32 codes, two at a time: 2 * kWords + 1 words, of which word 0 is the first scale and
// codes, word kWords the first block's last codes and the second scale; the others are codes alone.
// Words 0 and kWords make one more of codes.
template <class Codes, int kBucket>
struct RowFragments<BlockCache<Codes>, kBucket> {
  using Format = BlockCache<Codes>;
  static constexpr int kWords = Codes::kBytes / 4;  // of a block's codes
  static constexpr int kParts = 8 / kWords;         // 16 codes apart in the same bytes
  static constexpr int kPairBytes = 2 * Format::kBytes;
  static constexpr int kSteps = 4;
  static constexpr bool kRowsApart = true;

  // The byte of its block's codes of byte b of word w of the first (0) or second (1) block: there
  // the first has its shared word at 0.
  static __device__ __forceinline__ int byte_of(int block, int w, int b) {
    if (block != 0) return 4 * w + b;
    return w != 0 ? 4 * w - 2 + b : b < 2 ? b : 4 * kWords - 4 + b;
  }
  // Word 0 of the first block's codes is made of two.
  static __device__ __forceinline__ uint32_t own_codes(uint32_t word, uint32_t shared, bool first) {
    const uint32_t selector = first ? byte_selector(2, 3, 4, 5) : byte_selector(0, 1, 2, 3);
    return select_bytes(word, shared, selector);
  }
  // Which word of the second block's codes a lane has: not the one before them, which is shared.
  static __device__ __forceinline__ int second_word(int w) { return w == 0 ? kWords - 1 : w - 1; }

  static __device__ __forceinline__ int key_dim(int n, int t, int s, int half) {
    const int block = s / 2, w = 4 * (s % 2 / kParts) + t, part = s % 2 % kParts;
    return 64 * n + 32 * block + 16 * part + byte_of(block, block ? second_word(w) : w, 2 * half);
  }
  // Signed codes of two blocks, and the blocks' scales.
  static __device__ __forceinline__ void load_keys(const uint8_t* row, int n, int t,
                                                   uint32_t (&codes)[2][2], float (&scales)[2]) {
    const uint8_t* pair = row + n * kPairBytes;
    const uint32_t start = lds_word(pair, 0), shared = lds_word(pair, kWords);
    scales[0] = low_half(start), scales[1] = high_half(shared);
#pragma unroll
    for (int s = 0; s < kSteps; ++s) {
      const int block = s / 2, i = s % 2 / kParts;
      uint32_t word;
      if (block == 0) {
        word = lds_word(pair, 4 * i + t);
        if (i == 0) word = own_codes(word, shared, t == 0);
      } else if (i == 0) {
        word = lds_word(pair, kWords + 1 + second_word(t));
      } else {
        word = lds_word(pair, kWords + 4 * i + t);
      }
      codes[block][s % 2] = Codes::signed_codes(word, s % 2 % kParts * 16);
    }
  }

  static __device__ __forceinline__ int value_dim(int n, int i, int column) {
    const int block = i / 4, w = column % kWords, part = column / kWords;
    return 64 * n + 32 * block + 16 * part + byte_of(block, w, i % 4);
  }
  // Codes as float16 without an exponent, and scales: of two blocks, of the rows of both pairs.
  template <typename T>
  static __device__ __forceinline__ void load_values(const StagedRows& rows, int n, int lane,
                                                     StepB<T> (&tiles)[8],
                                                     uint32_t (&scales)[2][2]) {
    const int w = lane / 4 % kWords, part = lane / 4 / kWords;
#pragma unroll
    for (int k = 0; k < 2; ++k) {
      uint32_t codes[2][2], starts[2], shareds[2];  // of two rows
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const uint8_t* pair = rows.row(pair_row(lane, 2 * k + r)) + n * kPairBytes;
        starts[r] = lds_word(pair, 0), shareds[r] = lds_word(pair, kWords);
        codes[0][r] = Codes::codes(own_codes(lds_word(pair, w), shareds[r], w == 0), 16 * part);
        codes[1][r] = Codes::codes(lds_word(pair, kWords + 1 + w), 16 * part);
      }
      scales[0][k] = select_bytes(starts[0], starts[1], byte_selector(0, 1, 4, 5));
      scales[1][k] = select_bytes(shareds[0], shareds[1], byte_selector(2, 3, 6, 7));
#pragma unroll
      for (int block = 0; block < 2; ++block) {
        const uint32_t low = side_by_side<0>(codes[block][0], codes[block][1]);
        const uint32_t high = side_by_side<1>(codes[block][0], codes[block][1]);
        StepB<T>* to = tiles + 4 * block;
        to[0].words[k] = select_bytes(low, 0, byte_selector(0, 4, 1, 4));
        to[1].words[k] = select_bytes(low, 0, byte_selector(2, 4, 3, 4));
        to[2].words[k] = select_bytes(high, 0, byte_selector(0, 4, 1, 4));
        to[3].words[k] = select_bytes(high, 0, byte_selector(2, 4, 3, 4));
      }
    }
  }
};

}  // namespace rocmforge::gpu
