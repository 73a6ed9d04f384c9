// Rows of activations in LDS, rounded to 8 bits, in the order in which a wave uses them.
//
// Lane l of a wave works at step s of a row of weights when lane l + 1 works at step s + 1. What
// belongs to group g of 32 such steps stands side by side, so that the reads of a wave are whole
// lines of LDS: see slot().
#pragma once

#include "hip/rounding.h"

namespace rocmforge::gpu {

// kRows rows for weights of type T.
template <class T, int kRows>
struct LdsActivations {
  static constexpr int kUnits = T::kGroups / T::kSpan;  // of a step: what has a scale of its own
  using Factor = typename Rounding<T>::Factor;

  uint4* codes;      // [kRows, slots]: 16 signed bytes, or as T::dot or kPaired wants them
  Factor* factors;   // [kRows, slots / kSpan]
  float* residuals;  // [kRows, slots / kSpan], with minima
  int slots;

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

  // Where a thread's values of a row go.
  struct Place {
    int codes;  // bytes from the start of the row's codes
    int unit;   // of the row, if the values are the first of it, else -1
  };
  static __device__ __forceinline__ Place place_of(int col) {
    const PlaceInSteps<T> at(col);
    const int unit = at.is_first() ? slot<kUnits>(at.step, at.group / T::kSpan) : -1;
    if constexpr (kHasDot<T>) {
      static_assert(T::kSpan == 2);
      const int first = slot<T::kGroups>(at.step, at.group / 2 * 2);
      return {16 * first + col % 32 / kRoundedAtOnce * 4, unit};
    } else {
      // Halves of bytes that are 16 apart: two threads share a half of each of two groups.
      constexpr bool turned = kPairedApart<T> == 16;
      const int group = turned ? at.group / 2 * 2 + at.half : at.group;
      return {16 * slot<T::kGroups>(at.step, group) + 8 * (turned ? at.group % 2 : at.half), unit};
    }
  }
  // That of a thread's first values.
  static __device__ __forceinline__ Place first_place() {
    const Place place = place_of(kRoundedAtOnce * static_cast<int>(threadIdx.x));
    return {kept(place.codes), kept(place.unit)};
  }

  // fetch() and fill(), by all threads of a block, who then have to meet: rows as matvec_rows.h has
  // them, of `cols` columns. Between the two the first values are on their way.
  template <class Rows>
  static __device__ __forceinline__ void fetch(const Rows& rows, int cols,
                                               typename Rows::Loaded (&loaded)[Rows::kFetched]) {
    const int col = kRoundedAtOnce * static_cast<int>(threadIdx.x);
    const int stride = kRoundedAtOnce * static_cast<int>(blockDim.x);
    loaded[0] = rows.load(cols, col);
    if (kStartsEarly && cols <= stride) return;  // fill() has no use for the others
#pragma unroll
    for (int i = 1; i < Rows::kFetched; ++i) loaded[i] = rows.load(cols, col + i * stride);
  }
  template <class Rows>
  __device__ __forceinline__ void fill(Rows& rows, int cols, const Place& first_place,
                                       typename Rows::Loaded (&loaded)[Rows::kFetched]) const {
    // Whole waves go round, for the shuffles.
    const int lane = threadIdx.x % kWaveSize, wave = wave_uniform(threadIdx.x / kWaveSize);
    const int stride = kRoundedAtOnce * static_cast<int>(blockDim.x);
    int first = kRoundedAtOnce * kWaveSize * wave;
    const auto shift = [&] {
#pragma unroll
      for (int i = 0; i + 1 < Rows::kFetched; ++i) loaded[i] = loaded[i + 1];
    };
    if constexpr (kStartsEarly) {
      // What others wait for is short: the first values, all that a thread has of a row of 4096,
      // are apart from the loop. Elsewhere that would cost registers.
      if (first >= cols) return;
      round(rows, loaded[0], cols, first + kRoundedAtOnce * lane, [&] { return first_place; });
#pragma unroll 1
      while ((first += stride) < cols) {
        const int col = first + kRoundedAtOnce * lane;
        shift();
        loaded[Rows::kFetched - 1] = rows.load(cols, col + (Rows::kFetched - 1) * stride);
        const Place place = place_of(col);
        round(rows, loaded[0], cols, col, [&] { return place; });
      }
    } else {
#pragma unroll 1
      while (first < cols) {
        const int col = first + kRoundedAtOnce * lane;
        round(rows, loaded[0], cols, col, [&] { return place_of(col); });
        shift();
        loaded[Rows::kFetched - 1] = rows.load(cols, col + Rows::kFetched * stride);
        first += stride;
      }
    }
  }

 private:
  template <class Rows, typename PlaceOf>
  __device__ __forceinline__ void round(Rows& rows, const typename Rows::Loaded& loaded, int cols,
                                        int col, PlaceOf place) const {
#pragma unroll
    for (int row = 0; row < kRows; ++row) {
      float values[kRoundedAtOnce];
      rows.take(loaded, row, cols, col, values);
      Rounding<T> rounded(values);
      if constexpr (kHasDot<T>) rounded.arrange_for_dot();
      if constexpr (kPaired<T>) rounded.arrange_in_pairs();
      if (col < cols) store(row, place(), rounded);
    }
  }
  __device__ __forceinline__ void store(int row, const Place& place,
                                        const Rounding<T>& rounded) const {
    auto* const to = reinterpret_cast<uint8_t*>(codes + row * slots) + place.codes;
    if constexpr (kHasDot<T>) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        *reinterpret_cast<uint32_t*>(to + i * 32 * sizeof(uint4)) = rounded.codes[i];
      }
    } else {
      *reinterpret_cast<uint2*>(to) = {rounded.codes[0], rounded.codes[1]};
    }
    if (place.unit < 0) return;
    const int unit = row * (slots / T::kSpan) + place.unit;
    factors[unit] = rounded.factor;
    if constexpr (T::kMins) residuals[unit] = rounded.residual;
  }
};

}  // namespace rocmforge::gpu
