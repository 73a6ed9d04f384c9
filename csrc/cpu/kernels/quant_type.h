// The kernels of one quantization type, as templates over its trait.
#pragma once

#include "cpu/kernels/quant.h"
#include "cpu/quants/traits.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

template <class T>
inline constexpr int kChunks = T::kBlock / kChunk;  // per block
template <class T>
inline constexpr int kScales = T::kBlock / T::kSub;  // per block

// Runs f(0) to f(N - 1) with the index a compile-time constant after inlining.
template <int N, class F>
RF_INLINE void unrolled(const F& f) {
#pragma GCC unroll 16
  for (int i = 0; i < N; ++i) f(i);
}

template <class T>
void dequantize(const uint8_t* blocks, int64_t num_blocks, float* out) {
  const auto* block = reinterpret_cast<const typename T::Block*>(blocks);
  for (int64_t b = 0; b < num_blocks; ++b, ++block, out += T::kBlock) {
    float scale[kScales<T>], min[kScales<T>];
    T::scales(*block, scale, min);
    unrolled<kChunks<T>>([&](int c) {
      const u8x32 codes = T::codes(*block, c);
      unrolled<4>([&](int part) {
        const int s = (c * kChunk + part * 8) / T::kSub;
        const auto* eight = reinterpret_cast<const uint8_t*>(&codes) + 8 * part;
        f32x8 v = scale[s] * to_float(widen<uint8_t>(eight) - T::kOffset);
        if (T::kMins) v = v + min[s];
        store(out + c * kChunk + part * 8, v);
      });
    });
  }
}

template <class T>
void unpack(const uint8_t* blocks, int64_t num_blocks, uint8_t* codes, float* scales, float* mins) {
  const auto* block = reinterpret_cast<const typename T::Block*>(blocks);
  for (int64_t b = 0; b < num_blocks; ++b, ++block) {
    T::scales(*block, scales + b * kScales<T>, T::kMins ? mins + b * kScales<T> : nullptr);
    unrolled<kChunks<T>>(
        [&](int c) { store(codes + b * T::kBlock + c * kChunk, T::codes(*block, c)); });
  }
}

// The scale of every lane of a chunk's integer dot product: lanes 0-3 hold the first 16 weights.
template <class T>
RF_INLINE f32x8 lane_scales(const float* scale) {
  if (T::kSub == 32) return splat<f32x8>(scale[0]);
#if defined(__AVX2__)
  return _mm256_blend_ps(splat<f32x8>(scale[0]), splat<f32x8>(scale[1]), 0xF0);
#else
  return f32x8{scale[0], scale[0], scale[0], scale[0], scale[1], scale[1], scale[1], scale[1]};
#endif
}

// Sums of one (weight row, activation row) pair. Several chains hide the latency of the adds.
struct DotSums {
  static constexpr int kChains = 4;
  f32x8 products[kChains] = {};
  f32x8 mins = {};
  float min = 0;

  RF_INLINE float total() const {
    return sum((products[0] + products[1]) + (products[2] + products[3]) + mins) + min;
  }
};

// Adds the products of one block with the activations that start at entry `entry`.
template <class T>
RF_INLINE void add_block(const u8x32* codes, const float* scale, const float* min,
                         const QuantizedRows& x, int64_t entry, int chain, DotSums& sums) {
  constexpr int kSubs = kChunk / T::kSub;
  alignas(32) float scales[kScales<T>];
  const float* x_scales = x.scales + entry * kSubs;
  if constexpr (kScales<T> % 8 == 0) {
    for (int i = 0; i < kScales<T>; i += 8)
      store(scales + i, load<f32x8>(scale + i) * load<f32x8>(x_scales + i));
  } else {
    for (int i = 0; i < kScales<T>; ++i) scales[i] = scale[i] * x_scales[i];
  }
  unrolled<kChunks<T>>([&](int c) {
    const i32x8 dot = dot4<T::kWide>(load<i32x8>(x.starts + (entry + c) * 8), codes[c],
                                     load<i8x32>(x.codes + (entry + c) * kChunk));
    f32x8& products = sums.products[(chain + c) % DotSums::kChains];
    products = fma(to_float(dot), lane_scales<T>(scales + c * kSubs), products);
  });
  if constexpr (T::kMins) {
    const float* x_sums = x.sums + entry * kSubs;
    if constexpr (kScales<T> % 8 == 0) {
      for (int i = 0; i < kScales<T>; i += 8)
        sums.mins = fma(load<f32x8>(min + i), load<f32x8>(x_sums + i), sums.mins);
    } else {
      for (int i = 0; i < kScales<T>; ++i) sums.min += min[i] * x_sums[i];
    }
  }
}

// How far ahead of the block in use the weights are asked from memory.
inline constexpr int kPrefetchBytes = 1024;

template <class T, int M>
void dot(const uint8_t* weights, int64_t stride, int64_t num_rows, const QuantizedRows& x,
         float* out, int64_t out_stride) {
  constexpr int kUnroll = kChunks<T> >= DotSums::kChains ? 1 : DotSums::kChains / kChunks<T>;
  const int64_t blocks = x.chunks / kChunks<T>;
  for (int64_t n = 0; n < num_rows; ++n) {
    const auto* row = reinterpret_cast<const typename T::Block*>(weights + n * stride);
    DotSums sums[M];
    const auto block = [&](int64_t b, int chain) RF_INLINE_LAMBDA {
      float scale[kScales<T>], min[kScales<T>];
      u8x32 codes[kChunks<T>];
      T::scales(row[b], scale, min);
      unrolled<kChunks<T>>([&](int c) { codes[c] = T::codes(row[b], c); });
      unrolled<M>([&](int m) {
        add_block<T>(codes, scale, min, x, m * x.chunks + b * kChunks<T>, chain, sums[m]);
      });
    };
    int64_t b = 0;
    for (; b + kUnroll <= blocks; b += kUnroll) {
      for (int i = 0; i < static_cast<int>(kUnroll * sizeof(typename T::Block)); i += 64)
        __builtin_prefetch(reinterpret_cast<const char*>(row + b) + kPrefetchBytes + i);
      unrolled<kUnroll>([&](int i) { block(b + i, i * kChunks<T>); });
    }
    for (; b < blocks; ++b) block(b, 0);
    for (int m = 0; m < M; ++m) out[m * out_stride + n] = sums[m].total();
  }
}

template <class T>
constexpr QuantTypeKernels type_kernels(const char* name) {
  return {
      name,
      T::kType,
      T::kBlock,
      sizeof(typename T::Block),
      T::kSub,
      T::kWide && kWideIsSigned ? 0 : T::kOffset,
      T::kMins,
      T::kWide,
      dequantize<T>,
      unpack<T>,
      {dot<T, 1>, dot<T, 2>},
  };
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
