// Activations rounded to 8 bits: kRoundedAtOnce neighbours of a row by a thread, whole waves of
// which have to come along, neighbouring lanes with neighbouring columns.
#pragma once

#include "hip/convert.h"
#include "hip/launch.h"
#include "hip/quants/table.h"

namespace rocmforge::gpu {

constexpr int kRoundedAtOnce = 8;  // four threads share a scale

// Two 16-bit values to a word.
struct LoadedWords {
  uint32_t words[kRoundedAtOnce];
};

// Values from element `at` of x on, a multiple of kRoundedAtOnce; x is 16-byte aligned.
__device__ __forceinline__ LoadedWords load_words_of(DType dtype, const void* x, int64_t at) {
  LoadedWords loaded = {};
  const auto* bytes = static_cast<const uint8_t*>(x);
  if (dtype == DType::kFloat32) {
    load_words<kRoundedAtOnce, 16>(bytes + 4 * at, loaded.words);
  } else {
    uint32_t pairs[kRoundedAtOnce / 2];
    load_words<kRoundedAtOnce / 2, 16>(bytes + 2 * at, pairs);
#pragma unroll
    for (int i = 0; i < kRoundedAtOnce / 2; ++i) loaded.words[i] = pairs[i];
  }
  return loaded;
}

__device__ __forceinline__ void values_of(DType dtype, const LoadedWords& loaded,
                                          float (&values)[kRoundedAtOnce]) {
#pragma unroll
  for (int i = 0; i < kRoundedAtOnce; ++i) {
    const uint32_t pair = loaded.words[i / 2];
    if (dtype == DType::kFloat32) {
      values[i] = __uint_as_float(loaded.words[i]);
    } else if (dtype == DType::kFloat16) {
      values[i] = i % 2 ? high_half(pair) : low_half(pair);
    } else {
      values[i] = __uint_as_float(i % 2 ? pair & 0xffff0000u : pair << 16);
    }
  }
}

// Values as they are stored.
__device__ __forceinline__ LoadedWords words_of(DType dtype,
                                                const float (&values)[kRoundedAtOnce]) {
  LoadedWords words = {};
#pragma unroll
  for (int i = 0; i < kRoundedAtOnce; ++i) {
    if (dtype == DType::kFloat32) {
      words.words[i] = __float_as_uint(values[i]);
    } else if (i % 2 == 0) {
      words.words[i / 2] = dtype == DType::kFloat16
                               ? pack_pair<__half>(values[i], values[i + 1])
                               : pack_pair<gpu_bfloat16>(values[i], values[i + 1]);
    }
  }
  return words;
}

// Adds others to values and rounds the sums to dtype: values as they are stored, and how.
__device__ __forceinline__ LoadedWords add_words(DType dtype, const LoadedWords& others,
                                                 float (&values)[kRoundedAtOnce]) {
  float added[kRoundedAtOnce];
  values_of(dtype, others, added);
#pragma unroll
  for (int i = 0; i < kRoundedAtOnce; ++i) values[i] += added[i];
  const LoadedWords sums = words_of(dtype, values);
  values_of(dtype, sums, values);
  return sums;
}

// The squares of values added to a sum of others.
__device__ __forceinline__ float add_squares(float squares, const float (&values)[kRoundedAtOnce]) {
#pragma unroll
  for (const float value : values) squares = fmaf(value, value, squares);
  return squares;
}

// To element `at` of `out` on, a multiple of kRoundedAtOnce; `out` is 16-byte aligned.
__device__ __forceinline__ void store_words_of(DType dtype, void* out, int64_t at,
                                               const LoadedWords& loaded) {
  const uint32_t (&words)[kRoundedAtOnce] = loaded.words;
  if (dtype == DType::kFloat32) {
    auto* to = reinterpret_cast<uint4*>(static_cast<uint32_t*>(out) + at);
    to[0] = {words[0], words[1], words[2], words[3]};
    to[1] = {words[4], words[5], words[6], words[7]};
  } else {
    auto* to = reinterpret_cast<uint4*>(static_cast<uint16_t*>(out) + at);
    *to = {words[0], words[1], words[2], words[3]};
  }
}

// What products with weights of type T need of x beside the codes, for every unit: kSpan groups of
// 16 in a row of one scale (and minimum).
template <class T>
struct Rounding {
  // The scale; with an offset, the sum of what the codes stand for times -kOffset; with minima, the
  // sum of x itself.
  using Factor = std::conditional_t<T::kOffset != 0 || T::kMins, float2, float>;

  uint32_t codes[kRoundedAtOnce / 4];  // signed bytes
  Factor factor;
  // With minima: the sum of x less that of what the codes stand for, times kCentre. See add_step.
  float residual;

  // Of x times a number.
  __device__ __forceinline__ void multiply(float by) {
    if constexpr (std::is_same_v<Factor, float2>) {
      factor.x *= by, factor.y *= by;
    } else {
      factor *= by;
    }
    if constexpr (T::kMins) residual *= by;
  }

  // For T::dot: afterwards codes[i] is value 4 * i + k of each eight of the 32, for thread k of the
  // four that share them.
  __device__ __forceinline__ void arrange_for_dot() {
    factor.x *= T::kDotUnit;
    const int k = threadIdx.x % 4;
    const uint32_t pairs = k & 2 ? byte_selector(6, 7, 2, 3) : byte_selector(0, 1, 4, 5);
    const uint32_t singles = k & 1 ? byte_selector(5, 1, 7, 3) : byte_selector(0, 4, 2, 6);
#pragma unroll
    for (uint32_t& word : codes) {
      word = select_bytes(word, wave_shuffle_xor(word, 2), pairs);
      word = select_bytes(word, wave_shuffle_xor(word, 1), singles);
    }
  }

  // For kPaired: this thread's eight values and those of the thread kPairedApart away belong to
  // eight bytes of weights, the first four of them to the first thread afterwards.
  __device__ __forceinline__ void arrange_in_pairs() {
    constexpr int kAway = kPairedApart<T> / kRoundedAtOnce;  // threads
    const bool second = threadIdx.x & kAway;
    const uint32_t other = wave_shuffle_xor(second ? codes[0] : codes[1], kAway);
    const uint32_t first = second ? other : codes[0], behind = second ? codes[1] : other;
    codes[0] = select_bytes(first, behind, byte_selector(0, 4, 1, 5));
    codes[1] = select_bytes(first, behind, byte_selector(2, 6, 3, 7));
  }

  // scale = max |x| / 127, and code the integer nearest to x * (127 / max |x|): quotients in
  // float32, the product not rounded before.
  __device__ __forceinline__ explicit Rounding(const float (&values)[kRoundedAtOnce]) {
    // As integers the magnitudes are ordered with NaN above infinity, so that neither is lost.
    uint32_t largest = 0;
#pragma unroll
    for (const float value : values) {
      const uint32_t magnitude = __float_as_uint(value) & 0x7fffffff;
      largest = magnitude > largest ? magnitude : largest;
    }
#pragma unroll
    for (int mask = 32 / kRoundedAtOnce / 2; mask > 0; mask /= 2) {
      const uint32_t other = wave_shuffle_xor(largest, mask);
      largest = other > largest ? other : largest;
    }
    const float most = __uint_as_float(largest), scale = most / 127.0f;
    // Blocks so small that the quotient overflows are rounded to zeros.
    const float inverse = most > 1e-36f ? 127.0f / most : 0.0f;
    constexpr float kBias = 12582912.0f;  // 1.5 * 2^23 leaves the integer in the low bits
    uint32_t bits[kRoundedAtOnce];
#pragma unroll
    for (int i = 0; i < kRoundedAtOnce; ++i) {
      bits[i] = __float_as_uint(fmaf(values[i], inverse, kBias));
    }
#pragma unroll
    for (int i = 0; i < kRoundedAtOnce / 4; ++i) {
      codes[i] = pack_low_bytes(bits[4 * i], bits[4 * i + 1], bits[4 * i + 2], bits[4 * i + 3]);
    }
    int sum = 0;                // of codes
    float total = 0, less = 0;  // of x; of x less what the codes stand for
    if constexpr (T::kOffset != 0) {
#pragma unroll
      for (const uint32_t word : codes) sum = dot4(static_cast<int>(word), 0x01010101, sum);
    }
    if constexpr (T::kMins) {
#pragma unroll
      for (int i = 0; i < kRoundedAtOnce; ++i) {
        total += values[i];
        less += fmaf(kBias - __uint_as_float(bits[i]), scale, values[i]);
      }
    }
    // The other threads of the unit.
    constexpr int kFarthest = T::kSpan == 2 ? 2 : kHalfApart<T> / kRoundedAtOnce;
#pragma unroll
    for (int mask = kFarthest; mask >= (T::kSpan == 2 ? 1 : kFarthest); mask /= 2) {
      if constexpr (T::kOffset != 0) sum += wave_shuffle_xor(sum, mask);
      if constexpr (T::kMins) {
        total += wave_shuffle_xor(total, mask);
        less += wave_shuffle_xor(less, mask);
      }
    }
    if constexpr (T::kMins) {
      factor = {scale, total};
      residual = T::kCentre * less;
    } else if constexpr (T::kOffset != 0) {
      factor = {scale, -static_cast<float>(T::kOffset) * (scale * static_cast<float>(sum))};
    } else {
      factor = scale;
    }
  }
};

// The step of a row, its group and the half of it to which the eight columns from `col` on belong.
template <class T>
struct PlaceInSteps {
  int step, group, half;

  __device__ __forceinline__ explicit PlaceInSteps(int col) {
    // Groups that are neighbours in a row of weights belong to kStride steps by turns; so do halves
    // of groups where they are apart.
    constexpr int kStride = T::template first<1>(0) / 16, kApart = kHalfApart<T> / 8;
    static_assert(kApart == 1 || kApart == kStride);
    const auto n = static_cast<unsigned>(col) / 8;
    const auto turn = n / (kApart == 1 ? 2 : 1) % kStride;
    step = n / (2 * kStride * T::kGroups) * kStride + turn;
    group = n / (2 * kStride) % T::kGroups;
    half = n / kApart % 2;
  }
  // Whether these are the first of their unit.
  __device__ __forceinline__ bool is_first() const { return group % T::kSpan == 0 && half == 0; }
};

}  // namespace rocmforge::gpu
