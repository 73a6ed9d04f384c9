// What a quantization type has to say to get every GPU kernel: the twin of
// csrc/cpu/quants/traits.h.
//
// A trait has
//   kType, kBlock, kBytes   GGML's type number, weights and bytes of a block
//   kFields                 the parts of a block in the order of the packed layout (layout 1), most
//                           strictly aligned first
//   kGroups                 groups of 16 weights that a lane handles in one step
//   kSpan                   1, or 2 where groups 2j and 2j + 1 are 32 weights in a row with one
//   scale
//                           and one minimum
//   kOffset, kMins          weight = scale * (code - kOffset), plus a minimum if kMins
//   kCentre                 with minima: the middle of the codes
//   Raw                     the bytes of one step, in registers
//   load(view, block, step) reads them by read_words, read_u16 and read_u8 alone; quants/flight.h
//                           says how that is split into issuing loads and using them
//   decode<G>(raw, step)    group G: 16 codes as signed bytes, their scale, their minimum. Types
//   with
//                           look-up tables (quants/tables.h) take them as a third argument, from
//                           device memory if it is left out
//   first<G>(step)          where group G's first weight stands in the block; the first eight
//                           are neighbours, and so are the others, kHalfApart behind
// It may have, where codes are bits and kSpan is 2,
//   dot<U>(raw, low, high)  unit U times 32 signed bytes of x, added to kDotZero, faster than by
//                           decode(). Word j of the two has values j, 8 + j, 16 + j and 24 + j
//   kDotUnit                what to multiply it by to get the dot product with decode()'s codes
// A type with 16 levels (quants/tables.h), whose group G is words 2 G and 2 G + 1 of raw.codes, has
//   kHalvesApart            how many weights the halves of a byte are apart: 8, or 16 if kSpan is 2
// Scales are rounded as gguf-py rounds them (most are exact in float32), so that
// add_rn(mul_rn(scale, code - kOffset), min) is its value to the bit.
#pragma once

#include <type_traits>

#include "hip/compat.h"

namespace rocmforge::gpu {

// Runs body(integral constant) for 0 to N - 1, unrolled.
template <int N, typename Body, int I = 0>
__device__ __forceinline__ void for_each_group(Body body) {
  if constexpr (I < N) {
    body(std::integral_constant<int, I>{});
    for_each_group<N, Body, I + 1>(body);
  }
}

struct Field {
  int offset;
  int size;
};

struct Group {
  int codes[4];
  float scale;
  float min;
};

template <class T, typename = void>
constexpr int kHalfApart = 8;
template <class T>
constexpr int kHalfApart<T, std::void_t<decltype(T::kHalfApart)>> = T::kHalfApart;

template <class T, typename = void>
constexpr bool kHasDot = false;
template <class T>
constexpr bool kHasDot<T, std::void_t<decltype(T::kDotUnit)>> = true;

// Where the matvec has x in the order of the halves of bytes, kHalvesApart, else 0: word i is then
// values 2 i, 2 i + kHalvesApart, 2 i + 1 and 2 i + 1 + kHalvesApart of twice as many.
template <class T, typename = void>
constexpr int kPairedApart = 0;
template <class T>
constexpr int kPairedApart<T, std::void_t<decltype(T::kHalvesApart)>> =
    kPairsHalves ? T::kHalvesApart : 0;
template <class T>
constexpr bool kPaired = kPairedApart<T> > 0;

constexpr int largest_power_of_two(int n) { return n & -n; }
constexpr int smaller(int a, int b) { return a < b ? a : b; }

// Reads Words * 4 bytes from an address that is a multiple of Align.
template <int Words, int Align>
__device__ __forceinline__ void load_words(const uint8_t* from, uint32_t (&words)[Words]) {
  if constexpr (Align % 16 == 0 && Words % 4 == 0) {
#pragma unroll
    for (int i = 0; i < Words; i += 4) {
      const uint4 v = reinterpret_cast<const uint4*>(from)[i / 4];
      words[i] = v.x, words[i + 1] = v.y, words[i + 2] = v.z, words[i + 3] = v.w;
    }
  } else if constexpr (Align % 8 == 0 && Words % 2 == 0) {
#pragma unroll
    for (int i = 0; i < Words; i += 2) {
      const uint2 v = reinterpret_cast<const uint2*>(from)[i / 2];
      words[i] = v.x, words[i + 1] = v.y;
    }
  } else if constexpr (Align % 4 == 0) {
#pragma unroll
    for (int i = 0; i < Words; ++i) words[i] = reinterpret_cast<const uint32_t*>(from)[i];
  } else {
    static_assert(Align % 4 == 0, "see load_unaligned");
  }
}

__device__ __forceinline__ uint32_t low_bits(const uint8_t* address) {
  return static_cast<uint32_t>(reinterpret_cast<uintptr_t>(address));
}

// Words of a field that may start anywhere, read as aligned words and put together afterwards: the
// first part issues loads, the second waits for them. kAlign is 1 or 2, what the address is a
// multiple of. kHead says that the field is the first of its block. Of an even address nothing
// outside the block is read; of an odd one the first word may begin up to 3 bytes before the
// matrix.
template <int Words, int kAlign, bool kHead>
struct UnalignedWords {
  static constexpr int kParts = Words + (kAlign == 2 ? 1 : 2);

  static __device__ __forceinline__ void load(const uint8_t* from, uint32_t* parts) {
    // From the first aligned address on, and the two bytes before it; or from the last one on, and
    // the bytes that the words leave out.
    const uint32_t past = low_bits(from) & 3;
    const auto* aligned = reinterpret_cast<const uint32_t*>(kHead ? from + past : from - past);
#pragma unroll
    for (int i = 0; i < Words; ++i) parts[i] = aligned[i];
    const uint8_t* end = from + 4 * Words;
    if constexpr (kHead) {
      static_assert(kAlign == 2);
      parts[Words] = *reinterpret_cast<const uint16_t*>(from);
    } else if constexpr (kAlign == 2) {
      parts[Words] = reinterpret_cast<const uint16_t*>(end)[-1];
    } else {
      parts[Words] = *reinterpret_cast<const uint16_t*>(end - 2 - (past & 1));
      parts[Words + 1] = end[-1];
    }
  }

  // `address`: its low bits.
  static __device__ __forceinline__ void join(uint32_t address, const uint32_t* parts,
                                              uint32_t (&words)[Words]) {
    const uint32_t past = address & 3;
    if constexpr (kHead) {
      const uint32_t selector = past ? byte_selector(2) : byte_selector(4);
#pragma unroll
      for (int i = 0; i < Words; ++i) {
        words[i] = select_bytes(i > 0 ? parts[i - 1] : parts[Words] << 16, parts[i], selector);
      }
    } else {
      uint32_t last = parts[Words];
      if constexpr (kAlign == 1) {
        last = past == 1 ? parts[Words + 1] : last | parts[Words + 1] << 16;
      }
#pragma unroll
      for (int i = 0; i < Words; ++i) {
        words[i] = bytes_from(parts[i], i + 1 < Words ? parts[i + 1] : last, past);
      }
    }
  }
};

// A view says where the fields of a row's blocks stand, and in which planes: runs of bytes without
// gaps, `plane_size` of them for every block, that start at multiples of `plane_align`.

// Blocks as the file has them. Rows start at a multiple of the largest power of two that divides a
// block's bytes, up to 16.
template <class T>
struct FileView {
  const uint8_t* row;  // the row's first block

  template <typename Int>
  __device__ FileView(const uint8_t* matrix, Int, Int row_bytes, Int n)
      : row(matrix + static_cast<int64_t>(n) * row_bytes) {}

  template <int F>
  static constexpr int align() {
    return largest_power_of_two(T::kBytes | T::kFields[F].offset | 16);
  }
  template <int F>
  static constexpr bool head() {
    return T::kFields[F].offset == 0;
  }
  template <int F>
  __device__ __forceinline__ const uint8_t* field(int block) const {
    return row + static_cast<int64_t>(block) * T::kBytes + T::kFields[F].offset;
  }

  static constexpr int kPlanes = 1;
  template <int P>
  static constexpr int plane_size() {
    return T::kBytes;
  }
  template <int P>
  static constexpr int plane_align() {
    return largest_power_of_two(T::kBytes | 16);
  }
  template <int P>
  __device__ __forceinline__ const uint8_t* plane(int block) const {
    return row + static_cast<int64_t>(block) * T::kBytes;
  }
  // As far behind `from` as plane<P>(block) is behind plane<P>(0) of row `origin`.
  template <int P>
  __device__ __forceinline__ const uint8_t* plane_after(int block, const FileView& origin,
                                                        const uint8_t* from) const {
    return from + (plane<P>(block) - origin.row);
  }
  template <int F>
  static constexpr int plane_of() {
    return 0;
  }
  template <int F>
  static constexpr int within() {
    return T::kFields[F].offset;
  }
};

// One plane per field, each [rows, blocks, field size]: neighbouring lanes read whole cache lines.
template <class T>
struct PackedView {
  const uint8_t* matrix;
  int64_t total;   // blocks of the matrix
  uint32_t first;  // the row's first block; a matrix has fewer than 2^32

  template <typename Int>
  __device__ PackedView(const uint8_t* matrix, Int rows, Int row_bytes, Int n)
      : matrix(matrix),
        total(static_cast<int64_t>(rows) * (row_bytes / T::kBytes)),
        first(static_cast<uint32_t>(n) * static_cast<uint32_t>(row_bytes / T::kBytes)) {}

  template <int F>
  static constexpr int align() {
    return largest_power_of_two(T::kFields[F].size | 16);
  }
  template <int F>
  static constexpr bool head() {
    return false;
  }
  template <int F>
  __device__ __forceinline__ const uint8_t* field(int block) const {
    constexpr int before = [] {
      int sum = 0;
      for (int f = 0; f < F; ++f) sum += T::kFields[f].size;
      return sum;
    }();
    constexpr uint64_t size = T::kFields[F].size;
    return matrix + total * before + (first + static_cast<uint32_t>(block)) * size;
  }

  static constexpr int kPlanes = sizeof(T::kFields) / sizeof(Field);
  template <int P>
  static constexpr int plane_size() {
    return T::kFields[P].size;
  }
  template <int P>
  static constexpr int plane_align() {
    return align<P>();
  }
  template <int P>
  __device__ __forceinline__ const uint8_t* plane(int block) const {
    return field<P>(block);
  }
  // As far behind `from` as plane<P>(block) is behind plane<P>(0) of the matrix's first row.
  template <int P>
  __device__ __forceinline__ const uint8_t* plane_after(int block, const PackedView&,
                                                        const uint8_t* from) const {
    return from + (first + static_cast<uint32_t>(block)) * uint64_t{plane_size<P>()};
  }
  template <int F>
  static constexpr int plane_of() {
    return F;
  }
  template <int F>
  static constexpr int within() {
    return 0;
  }
};

template <class View, int F, int Words>
constexpr int kReadAlign = smaller(View::template align<F>(), largest_power_of_two(4 * Words | 16));

// Reads Words words at byte `at` of field F.
template <int F, int Words, class View>
__device__ __forceinline__ void read_words(const View& view, int block, int at,
                                           uint32_t (&words)[Words]) {
  constexpr int kAlign = kReadAlign<View, F, Words>;
  const uint8_t* from = view.template field<F>(block) + at;
  if constexpr (kAlign < 4) {
    using Unaligned = UnalignedWords<Words, kAlign, View::template head<F>()>;
    uint32_t parts[Unaligned::kParts];
    Unaligned::load(from, parts);
    Unaligned::join(low_bits(from), parts, words);
  } else {
    load_words<Words, kAlign>(from, words);
  }
}

template <int F, class View>
__device__ __forceinline__ uint16_t read_u16(const View& view, int block, int at = 0) {
  static_assert(View::template align<F>() % 2 == 0);
  return *reinterpret_cast<const uint16_t*>(view.template field<F>(block) + at);
}

template <int F, class View>
__device__ __forceinline__ uint8_t read_u8(const View& view, int block, int at = 0) {
  return view.template field<F>(block)[at];
}

__device__ __forceinline__ float half_bits(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}
__device__ __forceinline__ float low_half(uint32_t word) {
  return half_bits(static_cast<uint16_t>(word));
}
__device__ __forceinline__ float high_half(uint32_t word) {
  return half_bits(static_cast<uint16_t>(word >> 16));
}

// The low (0) or high (1) halves of 16 bytes.
template <int Half>
__device__ __forceinline__ void nibbles(const uint32_t (&bytes)[4], int (&codes)[4]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    codes[i] = static_cast<int>(bytes[i] >> (4 * Half) & 0x0f0f0f0f);
  }
}

// Bits [from, from + Width) of 16 bytes.
template <int Width>
__device__ __forceinline__ void bit_fields(const uint32_t (&bytes)[4], int from, int (&codes)[4]) {
  constexpr uint32_t mask = ((1u << Width) - 1) * 0x01010101u;
#pragma unroll
  for (int i = 0; i < 4; ++i) codes[i] = static_cast<int>(bytes[i] >> from & mask);
}

// Puts bits [From, From + Width) of 16 bytes at bit To of the codes.
template <int Width, int From, int To>
__device__ __forceinline__ void add_bits(const uint32_t (&bytes)[4], int (&codes)[4]) {
  constexpr uint32_t mask = (((1u << Width) - 1) << To) * 0x01010101u;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const uint32_t moved = From > To ? bytes[i] >> (From > To ? From - To : 0)
                                     : bytes[i] << (From > To ? 0 : To - From);
    codes[i] |= static_cast<int>(moved & mask);
  }
}

// The low four bits as the lowest bits of four bytes.
__device__ __forceinline__ int bits_to_bytes(uint32_t bits) {
  return static_cast<int>((bits & 15) * 0x00204081 & 0x01010101);
}

// Where groups stand when a step is a block of one scale and one minimum.
struct WholeBlock {
  static constexpr int kSpan = 2;
  template <int G>
  static constexpr __device__ __forceinline__ int first(int) {
    return 16 * G;
  }
};

// Where groups stand in blocks of 256 whose bytes hold weights 32 apart, 128 to a half.
struct FourGroups {
  static constexpr int kSpan = 1;
  template <int G>
  static constexpr __device__ __forceinline__ int first(int step) {
    return step / 2 * 128 + 32 * G + 16 * (step & 1);
  }
};

// Whether kFields names every byte of a block once, most strictly aligned fields first.
template <class T>
constexpr bool fields_are_complete() {
  bool seen[T::kBytes] = {};
  int align = 16;
  for (const Field field : T::kFields) {
    for (int i = field.offset; i < field.offset + field.size; ++i) {
      if (i >= T::kBytes || seen[i]) return false;
      seen[i] = true;
    }
    const int own = largest_power_of_two(field.size | 16);
    if (own > align) return false;
    align = own;
  }
  for (const bool byte : seen) {
    if (!byte) return false;
  }
  return true;
}

}  // namespace rocmforge::gpu
