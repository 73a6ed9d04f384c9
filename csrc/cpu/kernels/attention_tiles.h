// The two matrix products of attention, tiled so that sums stay in registers.
#pragma once

#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

// Registers: rows times keys, or rows times vectors, of sums, and one operand of each.
inline constexpr int kTileRows = 4;
inline constexpr int kTileKeys = kLanes == 16 ? 4 : 2;
inline constexpr int kTileVectors = kLanes == 16 ? 4 : 2;

template <int N>
struct Constant {
  static constexpr int value = N;
};

template <int Rows, int Keys>
RF_INLINE void product_tile(const float* q, const float* k, int64_t width, float* out,
                            int64_t out_stride) {
  f32xW sums[Rows][Keys] = {};
  for (int64_t i = 0; i < width; i += kLanes) {
    f32xW keys[Keys];
    for (int c = 0; c < Keys; ++c) keys[c] = load<f32xW>(k + c * width + i);
    for (int r = 0; r < Rows; ++r) {
      const f32xW query = load<f32xW>(q + r * width + i);
      for (int c = 0; c < Keys; ++c) sums[r][c] = fma(query, keys[c], sums[r][c]);
    }
  }
  for (int r = 0; r < Rows; ++r) {
    for (int c = 0; c < Keys; ++c) out[r * out_stride + c] = sum(sums[r][c]);
  }
}

template <int Rows>
void product_rows(const float* q, const float* k, int64_t keys, int64_t width, float* out,
                  int64_t out_stride) {
  int64_t c = 0;
  for (; c + kTileKeys <= keys; c += kTileKeys) {
    product_tile<Rows, kTileKeys>(q, k + c * width, width, out + c, out_stride);
  }
  for (; c < keys; ++c) product_tile<Rows, 1>(q, k + c * width, width, out + c, out_stride);
}

template <int Rows>
RF_INLINE void add_weighted_rows(const float* weights, int64_t stride, const float* v, int64_t keys,
                                 int64_t width, float* out) {
  int64_t i = 0;
  const auto columns = [&](auto vectors_tag) __attribute__((always_inline)) {
    constexpr int kVectors = decltype(vectors_tag)::value;
    f32xW sums[Rows][kVectors];
    for (int r = 0; r < Rows; ++r) {
      for (int c = 0; c < kVectors; ++c) sums[r][c] = load<f32xW>(out + r * width + i + c * kLanes);
    }
    for (int64_t key = 0; key < keys; ++key) {
      f32xW values[kVectors];
      for (int c = 0; c < kVectors; ++c) values[c] = load<f32xW>(v + key * width + i + c * kLanes);
      for (int r = 0; r < Rows; ++r) {
        const f32xW weight = splat<f32xW>(weights[r * stride + key]);
        for (int c = 0; c < kVectors; ++c) sums[r][c] = fma(weight, values[c], sums[r][c]);
      }
    }
    for (int r = 0; r < Rows; ++r) {
      for (int c = 0; c < kVectors; ++c) store(out + r * width + i + c * kLanes, sums[r][c]);
    }
    i += kVectors * kLanes;
  };
  while (i + kTileVectors * kLanes <= width) columns(Constant<kTileVectors>{});
  while (i < width) columns(Constant<1>{});
}

// Calls f(Constant<n>, first row) over the rows in tiles of kTileRows, the rest one by one.
template <typename F>
RF_INLINE void for_row_tiles(int64_t rows, F f) {
  int64_t row = 0;
  for (; row + kTileRows <= rows; row += kTileRows) f(Constant<kTileRows>{}, row);
  for (; row < rows; ++row) f(Constant<1>{}, row);
}

// out[r * out_stride + c] = q[r] . k[c]; rows of `width` floats, a multiple of kLanes.
inline void products(const float* q, int64_t rows, const float* k, int64_t keys, int64_t width,
                     float* out, int64_t out_stride) {
  for_row_tiles(rows, [&](auto tag, int64_t r) {
    product_rows<decltype(tag)::value>(q + r * width, k, keys, width, out + r * out_stride,
                                       out_stride);
  });
}

// out[r] += sum over c < keys of weights[r * stride + c] * v[c]
inline void add_weighted(const float* weights, int64_t stride, int64_t rows, const float* v,
                         int64_t keys, int64_t width, float* out) {
  for_row_tiles(rows, [&](auto tag, int64_t r) {
    add_weighted_rows<decltype(tag)::value>(weights + r * stride, stride, v, keys, width,
                                            out + r * width);
  });
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
