// Rows of activations in LDS, rounded to 8 bits, in the order in which a wave uses them.
//
// Lane l of a wave works at step s of a row of weights when lane l + 1 works at step s + 1. What
// belongs to group g of 32 such steps stands side by side, so that the reads of a wave are whole
// lines of LDS: see slot().
#pragma once

#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/launch.h"
#include "hip/quants/table.h"

namespace rocmforge::gpu {

// kRows rows for weights of type T.
template <class T, int kRows>
struct LdsActivations {
  static constexpr int kUnits = T::kGroups / T::kSpan;  // of a step: what has a scale of its own
  // The scale; with an offset, the sum of what the codes stand for times -kOffset; with minima, the
  // sum of x itself.
  using Factor = std::conditional_t<T::kOffset != 0 || T::kMins, float2, float>;

  uint4* codes;     // [kRows, slots]: 16 signed bytes
  Factor* factors;  // [kRows, slots / kSpan]
  // With minima: the sum of x less that of what the codes stand for, times kCentre. See add_step.
  float* residuals;  // [kRows, slots / kSpan]
  int slots;

  static constexpr int kThreadCodes = 8;  // of a thread; four threads share a scale

  static constexpr int slots_for(int cols) {
    return (cols / (16 * T::kGroups) + 31) / 32 * 32 * T::kGroups;
  }
  static constexpr int bytes_for(int cols) {
    constexpr auto kFactorBytes = static_cast<int>(sizeof(Factor)) + (T::kMins ? 4 : 0);
    return kRows * slots_for(cols) * (16 + kFactorBytes / T::kSpan);
  }

  // `lds` has bytes_for(cols) bytes, 16-byte aligned.
  __device__ __forceinline__ LdsActivations(uint8_t* lds, int cols)
      : codes(reinterpret_cast<uint4*>(lds)),
        factors(reinterpret_cast<Factor*>(lds + kRows * slots_for(cols) * 16)),
        residuals(reinterpret_cast<float*>(factors + kRows * slots_for(cols) / T::kSpan)),
        slots(slots_for(cols)) {}

  // Where number g of kPer things of step s stands.
  template <int kPer>
  static __device__ __forceinline__ int slot(int s, int g) {
    return (s / 32 * kPer + g) * 32 + s % 32;
  }
  // The same for what lane `lane` of a wave works at, as step chunk * kWaveSize + lane.
  template <int kPer>
  static __device__ __forceinline__ int lane_slot(int chunk, int lane, int g) {
    return ((chunk * (kWaveSize / 32) + lane / 32) * kPer + g) * 32 + lane % 32;
  }
  __device__ __forceinline__ uint4 codes_at(int row, int chunk, int lane, int group) const {
    return codes[row * slots + lane_slot<T::kGroups>(chunk, lane, group)];
  }
  __device__ __forceinline__ Factor factor_at(int row, int chunk, int lane, int unit) const {
    return factors[row * (slots / T::kSpan) + lane_slot<kUnits>(chunk, lane, unit)];
  }
  __device__ __forceinline__ float residual_at(int row, int chunk, int lane, int unit) const {
    return residuals[row * (slots / T::kSpan) + lane_slot<kUnits>(chunk, lane, unit)];
  }

  // What a thread has loaded of each row: kThreadCodes values, two 16-bit ones to a word.
  struct Loaded {
    uint32_t words[kRows][kThreadCodes];
  };
  static constexpr int kFetched = 5 - kRows;  // of them under way

  // fetch() and fill(), by all threads of a block, who then have to meet: x [kRows, cols] is
  // contiguous. Between the two its first values are on their way.
  static __device__ __forceinline__ void fetch(DType dtype, const void* x, int cols,
                                               Loaded (&loaded)[kFetched]) {
#pragma unroll
    for (int i = 0; i < kFetched; ++i) {
      loaded[i] = load(dtype, x, cols, kThreadCodes * (threadIdx.x + i * blockDim.x));
    }
  }
  __device__ __forceinline__ void fill(Loaded (&loaded)[kFetched], DType dtype, const void* x,
                                       int cols) const {
    // Whole waves go round, for the shuffles.
    const int lane = threadIdx.x % kWaveSize, wave = wave_uniform(threadIdx.x / kWaveSize);
    int first = kThreadCodes * kWaveSize * wave;
#pragma unroll 1
    while (first < cols) {
#pragma unroll
      for (int row = 0; row < kRows; ++row) {
        float values[kThreadCodes];
        convert(dtype, loaded[0].words[row], values);
        round(row, first + kThreadCodes * lane, first + kThreadCodes * lane < cols, values);
      }
#pragma unroll
      for (int i = 0; i + 1 < kFetched; ++i) loaded[i] = loaded[i + 1];
      const int step = kThreadCodes * static_cast<int>(blockDim.x);
      loaded[kFetched - 1] = load(dtype, x, cols, first + kFetched * step + kThreadCodes * lane);
      first += step;
    }
  }

 private:
  // Values from `col` on; zeros beyond the rows.
  static __device__ __forceinline__ Loaded load(DType dtype, const void* x, int cols, int col) {
    Loaded loaded = {};
    if (col >= cols) return loaded;
    const bool aligned = reinterpret_cast<uintptr_t>(x) % 16 == 0;
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      const int64_t at = static_cast<int64_t>(row) * cols + col;
      auto& words = loaded.words[row];
      if (dtype == DType::kFloat32) {
        const auto* from = static_cast<const uint32_t*>(x) + at;
        if (aligned) {
          load_words<kThreadCodes, 16>(reinterpret_cast<const uint8_t*>(from), words);
        } else {
          load_words<kThreadCodes, 4>(reinterpret_cast<const uint8_t*>(from), words);
        }
      } else {
        const auto* from = static_cast<const uint16_t*>(x) + at;
        uint32_t pairs[kThreadCodes / 2];
        if (aligned) {
          load_words<kThreadCodes / 2, 16>(reinterpret_cast<const uint8_t*>(from), pairs);
        } else {
#pragma unroll
          for (int i = 0; i < kThreadCodes / 2; ++i) {
            pairs[i] = from[2 * i] | static_cast<uint32_t>(from[2 * i + 1]) << 16;
          }
        }
#pragma unroll
        for (int i = 0; i < kThreadCodes / 2; ++i) words[i] = pairs[i];
      }
    }
    return loaded;
  }
  static __device__ __forceinline__ void convert(DType dtype, const uint32_t (&words)[kThreadCodes],
                                                 float (&values)[kThreadCodes]) {
#pragma unroll
    for (int i = 0; i < kThreadCodes; ++i) {
      const uint32_t pair = words[i / 2];
      if (dtype == DType::kFloat32) {
        values[i] = __uint_as_float(words[i]);
      } else if (dtype == DType::kFloat16) {
        values[i] = i % 2 ? high_half(pair) : low_half(pair);
      } else {
        values[i] = __uint_as_float(i % 2 ? pair & 0xffff0000u : pair << 16);
      }
    }
  }

  // scale = max |x| / 127, and code the integer nearest to x * (127 / max |x|): quotients in
  // float32, the product not rounded before.
  __device__ __forceinline__ void round(int row, int col, bool inside,
                                        const float (&values)[kThreadCodes]) const {
    // As integers the magnitudes are ordered with NaN above infinity, so that neither is lost.
    uint32_t largest = 0;
#pragma unroll
    for (const float value : values) {
      const uint32_t magnitude = __float_as_uint(value) & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
#pragma unroll
    for (int mask = 32 / kThreadCodes / 2; mask > 0; mask /= 2) {
      const uint32_t other = wave_shuffle_xor(largest, mask);
      largest = other > largest ? other : largest;
    }
    const float most = __uint_as_float(largest), scale = most / 127.0f;
    // Blocks so small that the quotient overflows are rounded to zeros.
    const float inverse = most > 1e-36f ? 127.0f / most : 0.0f;
    constexpr float kBias = 12582912.0f;  // 1.5 * 2^23 leaves the integer in the low bits
    uint32_t bits[kThreadCodes], packed[kThreadCodes / 4];
#pragma unroll
    for (int i = 0; i < kThreadCodes; ++i) {
      bits[i] = __float_as_uint(fmaf(values[i], inverse, kBias));
    }
#pragma unroll
    for (int i = 0; i < kThreadCodes / 4; ++i) {
      packed[i] = pack_low_bytes(bits[4 * i], bits[4 * i + 1], bits[4 * i + 2], bits[4 * i + 3]);
    }
    int sum = 0;                    // of codes
    float total = 0, residual = 0;  // of x; of x less what the codes stand for
    if constexpr (T::kOffset != 0) {
#pragma unroll
      for (const uint32_t word : packed) sum = dot4(static_cast<int>(word), 0x01010101, sum);
    }
    if constexpr (T::kMins) {
#pragma unroll
      for (int i = 0; i < kThreadCodes; ++i) {
        total += values[i];
        residual += fmaf(kBias - __uint_as_float(bits[i]), scale, values[i]);
      }
    }
#pragma unroll
    for (int mask = 16 * T::kSpan / kThreadCodes / 2; mask > 0; mask /= 2) {
      if constexpr (T::kOffset != 0) sum += wave_shuffle_xor(sum, mask);
      if constexpr (T::kMins) {
        total += wave_shuffle_xor(total, mask);
        residual += wave_shuffle_xor(residual, mask);
      }
    }
    if (!inside) return;
    // Groups that are neighbours in a row of weights belong to kStride steps by turns.
    constexpr int kStride = T::template first<1>(0) / 16;
    const int n = col / 16, s = n / (kStride * T::kGroups) * kStride + n % kStride;
    const int group = n / kStride % T::kGroups;
    auto* halves = reinterpret_cast<uint2*>(codes + row * slots + slot<T::kGroups>(s, group));
    halves[col % 16 / kThreadCodes] = {packed[0], packed[1]};
    if (col % (16 * T::kSpan) != 0) return;
    const int at = row * (slots / T::kSpan) + slot<kUnits>(s, group / T::kSpan);
    if constexpr (T::kMins) {
      factors[at] = {scale, total};
      residuals[at] = T::kCentre * residual;
    } else if constexpr (T::kOffset != 0) {
      factors[at] = {scale, -static_cast<float>(T::kOffset) * (scale * static_cast<float>(sum))};
    } else {
      factors[at] = scale;
    }
  }
};

}  // namespace rocmforge::gpu
