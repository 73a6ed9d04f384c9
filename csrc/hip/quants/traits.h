// What a quantization type has to say to get every GPU kernel: the twin of csrc/cpu/quants/traits.h.
//
// A trait has
//   kType, kBlock, kBytes   GGML's type number, weights and bytes of a block
//   kFields                 the parts of a block in the order of the packed layout (layout 1), most
//                           strictly aligned first
//   kGroups                 groups of 16 weights that a lane handles in one step
//   kOffset, kMins          weight = scale * (code - kOffset), plus a minimum if kMins
//   Raw                     the bytes of one step, in registers
//   load(view, block, step) reads them; nothing is computed, so that many loads can be under way
//   decode<G>(raw, step)    group G: 16 codes as signed bytes, their scale, their minimum
//   first<G>(step)          where group G's first weight stands in the block
// Every scale is exact in float32, so scale * (code - kOffset) + min rounds as gguf-py's does.
#pragma once

#include "hip/compat.h"

namespace rocmforge::gpu {

struct Field {
  int offset;
  int size;
};

struct Group {
  int codes[4];
  float scale;
  float min;
};

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
  } else if constexpr (Align % 2 == 0) {
#pragma unroll
    for (int i = 0; i < Words; ++i) {
      const auto* halves = reinterpret_cast<const uint16_t*>(from) + 2 * i;
      words[i] = halves[0] | static_cast<uint32_t>(halves[1]) << 16;
    }
  } else {
#pragma unroll
    for (int i = 0; i < Words; ++i) {
      const uint8_t* bytes = from + 4 * i;
      words[i] = bytes[0] | bytes[1] << 8 | bytes[2] << 16 | static_cast<uint32_t>(bytes[3]) << 24;
    }
  }
}

// Blocks as the file has them. The matrix starts at a multiple of kFileAlign.
constexpr int kFileAlign = 2;

template <class T>
struct FileView {
  const uint8_t* row;  // the row's first block

  __device__ FileView(const uint8_t* matrix, int64_t, int64_t row_bytes, int64_t n)
      : row(matrix + n * row_bytes) {}

  template <int F>
  static constexpr int align() {
    return smaller(kFileAlign, largest_power_of_two(T::kBytes | T::kFields[F].offset | 16));
  }
  template <int F>
  __device__ __forceinline__ const uint8_t* field(int block) const {
    return row + static_cast<int64_t>(block) * T::kBytes + T::kFields[F].offset;
  }
};

// One plane per field, each [rows, blocks, field size]: neighbouring lanes read whole cache lines.
template <class T>
struct PackedView {
  const uint8_t* matrix;
  int64_t total;  // blocks of the matrix
  int64_t first;  // the row's first block

  __device__ PackedView(const uint8_t* matrix, int64_t rows, int64_t row_bytes, int64_t n)
      : matrix(matrix), total(rows * (row_bytes / T::kBytes)), first(n * (row_bytes / T::kBytes)) {}

  template <int F>
  static constexpr int align() {
    return largest_power_of_two(T::kFields[F].size | 16);
  }
  template <int F>
  __device__ __forceinline__ const uint8_t* field(int block) const {
    constexpr int before = [] {
      int sum = 0;
      for (int f = 0; f < F; ++f) sum += T::kFields[f].size;
      return sum;
    }();
    return matrix + total * before + (first + block) * T::kFields[F].size;
  }
};

// Reads Words words at byte `at` of field F.
template <int F, int Words, class View>
__device__ __forceinline__ void read_words(const View& view, int block, int at,
                                           uint32_t (&words)[Words]) {
  constexpr int align = smaller(View::template align<F>(), largest_power_of_two(4 * Words | 16));
  load_words<Words, align>(view.template field<F>(block) + at, words);
}

template <int F, class View>
__device__ __forceinline__ uint16_t read_u16(const View& view, int block, int at = 0) {
  const uint8_t* from = view.template field<F>(block) + at;
  if constexpr (View::template align<F>() % 2 == 0) {
    return *reinterpret_cast<const uint16_t*>(from);
  } else {
    return static_cast<uint16_t>(from[0] | from[1] << 8);
  }
}

__device__ __forceinline__ float half_bits(uint16_t bits) {
  return __half2float(__ushort_as_half(bits));
}

}  // namespace rocmforge::gpu
