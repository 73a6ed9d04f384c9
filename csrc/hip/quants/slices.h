// Steps of weights of which every lane needs kLaneWords words of each group (mma_int8.h): where the
// words of codes stand for themselves, a lane reads no more than its own.
#pragma once

#include "hip/mma_int8.h"
#include "hip/quants/table.h"

namespace rocmforge::gpu {

// Whether word i of a group's codes depends on word i alone of every four words that T reads, and
// in the same way for all i.
template <class T>
constexpr bool kWordwise = LdsTables<T>::kWords == 0;
template <>
inline constexpr bool kWordwise<Q5_0> = false;
template <>
inline constexpr bool kWordwise<Q5_1> = false;
template <>
inline constexpr bool kWordwise<Q1_0> = false;
template <>
inline constexpr bool kWordwise<TQ1_0> = false;
template <>
inline constexpr bool kWordwise<NVFP4> = false;

// A view of which every four words are those of a slot, followed by nothing.
template <class View>
struct SliceView {
  View view;
  int slot;
};

// Of any view.
struct Slice {
  int slot;
  template <class View>
  __device__ __forceinline__ SliceView<View> operator()(const View& view) const {
    return {view, slot};
  }
};

template <int F, int Words, class View>
__device__ __forceinline__ void read_words(const SliceView<View>& from, int block, int at,
                                           uint32_t (&words)[Words]) {
  if constexpr (Words % 4 == 0) {
#pragma unroll
    for (int i = 0; i < Words; i += 4) {
      uint32_t slice[kLaneWords];
      read_words<F>(from.view, block, at + 4 * i + 4 * kLaneWords * from.slot, slice);
#pragma unroll
      for (int w = 0; w < 4; ++w) words[i + w] = w < kLaneWords ? slice[w] : 0;
    }
  } else {
    read_words<F>(from.view, block, at, words);
  }
}
template <int F, class View>
__device__ __forceinline__ uint16_t read_u16(const SliceView<View>& from, int block, int at = 0) {
  return read_u16<F>(from.view, block, at);
}
template <int F, class View>
__device__ __forceinline__ uint8_t read_u8(const SliceView<View>& from, int block, int at = 0) {
  return read_u8<F>(from.view, block, at);
}

// Four words of codes of each of kSlots steps, the lane's own from its slot: afterwards words
// [n][...] are the lane's slice of step n.
__device__ __forceinline__ void exchange_slices(int lane, const int (&own)[4],
                                                uint32_t (&slices)[kSlots][kLaneWords]) {
  uint32_t words[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) words[i] = static_cast<uint32_t>(own[i]);
  // Word n * kLaneWords + w is slice n; lanes swap what belongs to each other, bit by bit.
#pragma unroll
  for (int bit = kSlots / 2; bit > 0; bit /= 2) {
    const bool upper = slot(lane) & bit;
#pragma unroll
    for (int n = 0; n < kSlots; ++n) {
      if (n & bit) continue;
#pragma unroll
      for (int w = 0; w < kLaneWords; ++w) {
        uint32_t& low = words[n * kLaneWords + w];
        uint32_t& high = words[(n | bit) * kLaneWords + w];
        const uint32_t other = wave_shuffle_xor(upper ? low : high, bit * kSlotLanes);
        low = upper ? other : low;
        high = upper ? high : other;
      }
    }
  }
#pragma unroll
  for (int n = 0; n < kSlots; ++n) {
#pragma unroll
    for (int w = 0; w < kLaneWords; ++w) slices[n][w] = words[n * kLaneWords + w];
  }
}

}  // namespace rocmforge::gpu
