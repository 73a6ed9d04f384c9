// Rows walked 16 bytes per thread: as vectors where every row is aligned, else element by element
// with neighbouring threads on neighbouring elements.
#pragma once

#include <cstdint>
#include <type_traits>

#include "hip/compat.h"
#include "hip/launch.h"
#include "hip/rows.h"

namespace rocmforge::gpu {

// Elements of 16 bytes.
template <typename T>
constexpr int kChunk = 16 / static_cast<int>(sizeof(T));

template <typename T, int kCount>
struct alignas(kCount * sizeof(T) < 16 ? kCount * sizeof(T) : 16) Chunk {
  T values[kCount];
};

// Blocks that share `count` pieces of work: fewer than 2^32 threads, which is all that a grid may
// have. Kernels go round until everything is done.
inline unsigned grid_size(int64_t count) {
  constexpr int64_t kMost = int64_t{1} << 22;
  return static_cast<unsigned>(count < kMost ? count : kMost);
}

inline bool is_aligned(const void* p, int64_t stride_bytes = 0) {
  return (reinterpret_cast<uintptr_t>(p) | static_cast<uintptr_t>(stride_bytes)) % 16 == 0;
}

// Whether every row starts at a multiple of 16 bytes.
inline bool rows_aligned(const void* data, const RowLayout& rows, int64_t element_bytes) {
  return is_aligned(data, rows.outer_stride * element_bytes) &&
         is_aligned(data, rows.inner_stride * element_bytes);
}

__device__ __forceinline__ int64_t row_offset(const RowLayout& rows, int64_t row) {
  if (row < rows.inner) return row * rows.inner_stride;  // spares most rows the division
  return row / rows.inner * rows.outer_stride + row % rows.inner * rows.inner_stride;
}

// Elements of a thread's step through a row.
template <typename T, bool kVectors>
constexpr int kStepElements = kVectors ? kChunk<T> : 2;

// This thread's part of elements [first, first + kLanes * kCount); zeros past `width`. With
// kVectors every row must be aligned and `width` a multiple of kCount.
template <int kLanes, bool kVectors, typename T, int kCount>
__device__ __forceinline__ void load_chunk(const T* row, int width, int first, int lane,
                                           T (&out)[kCount]) {
  if constexpr (kVectors) {
    const int i = first + lane * kCount;
    Chunk<T, kCount> chunk = {};
    if (i < width) chunk = *reinterpret_cast<const Chunk<T, kCount>*>(row + i);
#pragma unroll
    for (int j = 0; j < kCount; ++j) out[j] = chunk.values[j];
  } else {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const int i = first + j * kLanes + lane;
      out[j] = i < width ? row[i] : T{};
    }
  }
}

template <int kLanes, bool kVectors, typename T, int kCount>
__device__ __forceinline__ void store_chunk(const T (&values)[kCount], int width, int first,
                                            int lane, T* row) {
  if constexpr (kVectors) {
    const int i = first + lane * kCount;
    Chunk<T, kCount> chunk;
#pragma unroll
    for (int j = 0; j < kCount; ++j) chunk.values[j] = values[j];
    if (i < width) *reinterpret_cast<Chunk<T, kCount>*>(row + i) = chunk;
  } else {
#pragma unroll
    for (int j = 0; j < kCount; ++j) {
      const int i = first + j * kLanes + lane;
      if (i < width) row[i] = values[j];
    }
  }
}

// Calls body(std::true_type{}) or body(std::false_type{}).
template <typename Body>
void with_bool(bool value, Body body) {
  value ? body(std::true_type{}) : body(std::false_type{});
}

// The most elements of a row that a thread can count.
constexpr int64_t kMaxWidth = (int64_t{1} << 31) - (1 << 16);
constexpr Status kTooWide = "rows must have fewer than 2^31 elements";

}  // namespace rocmforge::gpu
