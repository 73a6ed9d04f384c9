#include "cpu/kernels/quant_float.h"

#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

RF_INLINE f32xW load_partial(const float* p, int64_t count) {
  f32xW v = {};
  __builtin_memcpy(&v, p, count * sizeof(float));
  return v;
}

// Dot products of N weight rows with M activation rows. Every pair sums in the same order whatever
// the tile.
template <int N, int M>
void dot_tile(const float* w, const float* x, int64_t k, float* out, int64_t out_stride) {
  f32xW total[M][N] = {};
  int64_t j = 0;
  for (; j + kLanes <= k; j += kLanes) {
    f32xW wv[N];
    for (int n = 0; n < N; ++n) wv[n] = load<f32xW>(w + n * k + j);
    for (int m = 0; m < M; ++m) {
      const f32xW xv = load<f32xW>(x + m * k + j);
      for (int n = 0; n < N; ++n) total[m][n] = fma(wv[n], xv, total[m][n]);
    }
  }
  for (int m = 0; m < M; ++m) {
    for (int n = 0; n < N; ++n) {
      if (j < k)
        total[m][n] = fma(load_partial(w + n * k + j, k - j), load_partial(x + m * k + j, k - j),
                          total[m][n]);
      out[m * out_stride + n] = sum(total[m][n]);
    }
  }
}

template <int N>
void dot_rows(const float* w, const float* x, int64_t m, int64_t k, float* out,
              int64_t out_stride) {
  constexpr int kTile = kLanes == 16 ? 4 : 2;
  int64_t i = 0;
  for (; i + kTile <= m; i += kTile)
    dot_tile<N, kTile>(w, x + i * k, k, out + i * out_stride, out_stride);
  for (; i < m; ++i) dot_tile<N, 1>(w, x + i * k, k, out + i * out_stride, out_stride);
}

// out[i][j] += sum over N rows of g[i][n] * w[n][j]
template <int N>
void add_outer(const float* w, const float* g, int64_t g_stride, int64_t m, int64_t width,
               float* out) {
  for (int64_t i = 0; i < m; ++i) {
    int64_t j = 0;
    for (; j + kLanes <= width; j += kLanes) {
      f32xW v = load<f32xW>(out + i * width + j);
      for (int n = 0; n < N; ++n)
        v = fma(splat<f32xW>(g[i * g_stride + n]), load<f32xW>(w + n * width + j), v);
      store(out + i * width + j, v);
    }
    for (; j < width; ++j)
      for (int n = 0; n < N; ++n) out[i * width + j] += g[i * g_stride + n] * w[n * width + j];
  }
}

}  // namespace

void float_product(const float* w, int64_t num_rows, const float* x, int64_t m, int64_t k,
                   float* out, int64_t out_stride) {
  int64_t n = 0;
  for (; n + 4 <= num_rows; n += 4) dot_rows<4>(w + n * k, x, m, k, out + n, out_stride);
  for (; n < num_rows; ++n) dot_rows<1>(w + n * k, x, m, k, out + n, out_stride);
}

void double_product(const float* w, int64_t num_rows, const float* x, int64_t m, int64_t k,
                    float* out, int64_t out_stride) {
  constexpr int kSums = 8;
  for (int64_t i = 0; i < m; ++i) {
    for (int64_t n = 0; n < num_rows; ++n) {
      const float *a = w + n * k, *b = x + i * k;
      double sums[kSums] = {};
      int64_t j = 0;
      for (; j + kSums <= k; j += kSums)
        for (int l = 0; l < kSums; ++l) sums[l] += static_cast<double>(a[j + l]) * b[j + l];
      for (; j < k; ++j) sums[0] += static_cast<double>(a[j]) * b[j];
      double total = 0;
      for (int l = 0; l < kSums; ++l) total += sums[l];
      out[i * out_stride + n] = static_cast<float>(total);
    }
  }
}

void transposed_product(const QuantTypeKernels& type, const uint8_t* weights, int64_t stride,
                        int64_t num_rows, int64_t num_blocks, const float* g, int64_t g_stride,
                        int64_t m, float* scratch, float* out, int64_t out_stride) {
  constexpr int kGroup = 8;       // weight rows in float at a time
  constexpr int64_t kSpan = 512;  // rows summed before they join the total: keeps the error small
  const int64_t width = num_blocks * type.block_size;
  float* w = scratch;
  float* partial = w + kGroup * width;
  for (int64_t i = 0; i < m; ++i) __builtin_memset(out + i * out_stride, 0, width * sizeof(float));
  for (int64_t first = 0; first < num_rows; first += kSpan) {
    const int64_t last = first + kSpan < num_rows ? first + kSpan : num_rows;
    __builtin_memset(partial, 0, m * width * sizeof(float));
    int64_t n = first;
    for (; n + kGroup <= last; n += kGroup) {
      for (int r = 0; r < kGroup; ++r)
        type.dequantize(weights + (n + r) * stride, num_blocks, w + r * width);
      add_outer<kGroup>(w, g + n, g_stride, m, width, partial);
    }
    for (; n < last; ++n) {
      type.dequantize(weights + n * stride, num_blocks, w);
      add_outer<1>(w, g + n, g_stride, m, width, partial);
    }
    for (int64_t i = 0; i < m; ++i)
      for (int64_t j = 0; j < width; ++j) out[i * out_stride + j] += partial[i * width + j];
  }
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
