// One step of weights whose loads are under way: T::load in two halves, so that nothing waits for
// memory before the values are needed.
//
// Where a load gives what Raw holds there is nothing to split. Fields that may start at any even
// address are read as aligned words that have to be shifted: T::load runs once over a view that
// issues the loads and keeps what they give, and again over one that takes from there.
#pragma once

#include "hip/quants/traits.h"

namespace rocmforge::gpu {

// What a flight reads of its view: everything, or what another function of views leaves of it.
struct Everything {
  template <class View>
  __device__ __forceinline__ View operator()(const View& view) const {
    return view;
  }
};

template <class View>
struct LoadingView {
  View view;
  uint32_t* parts;
  int& count;
};

template <class T>
struct SettlingView {
  uint32_t row;  // the low bits of the address of the row
  const uint32_t* parts;
  int& count;
};

template <int F, int Words, class View>
__device__ __forceinline__ void read_words(const LoadingView<View>& to, int block, int at,
                                           uint32_t (&)[Words]) {
  constexpr int kAlign = kReadAlign<View, F, Words>;
  const uint8_t* from = to.view.template field<F>(block) + at;
  if constexpr (kAlign < 4) {
    using Unaligned = UnalignedWords<Words, kAlign, View::template head<F>()>;
    Unaligned::load(from, to.parts + to.count);
    to.count += Unaligned::kParts;
  } else {
    uint32_t words[Words];
    load_words<Words, kAlign>(from, words);
#pragma unroll
    for (int i = 0; i < Words; ++i) to.parts[to.count + i] = words[i];
    to.count += Words;
  }
}

template <int F, int Words, class T>
__device__ __forceinline__ void read_words(const SettlingView<T>& from, int block, int at,
                                           uint32_t (&words)[Words]) {
  constexpr int kAlign = kReadAlign<FileView<T>, F, Words>;
  if constexpr (kAlign < 4) {
    using Unaligned = UnalignedWords<Words, kAlign, FileView<T>::template head<F>()>;
    const uint32_t address = from.row + block * T::kBytes + T::kFields[F].offset + at;
    Unaligned::join(address, from.parts + from.count, words);
    from.count += Unaligned::kParts;
  } else {
#pragma unroll
    for (int i = 0; i < Words; ++i) words[i] = from.parts[from.count + i];
    from.count += Words;
  }
}

template <int F, class View>
__device__ __forceinline__ uint16_t read_u16(const LoadingView<View>& to, int block, int at = 0) {
  to.parts[to.count++] = read_u16<F>(to.view, block, at);
  return 0;
}
template <int F, class T>
__device__ __forceinline__ uint16_t read_u16(const SettlingView<T>& from, int, int = 0) {
  return static_cast<uint16_t>(from.parts[from.count++]);
}

template <int F, class View>
__device__ __forceinline__ uint8_t read_u8(const LoadingView<View>& to, int block, int at = 0) {
  to.parts[to.count++] = read_u8<F>(to.view, block, at);
  return 0;
}
template <int F, class T>
__device__ __forceinline__ uint8_t read_u8(const SettlingView<T>& from, int, int = 0) {
  return static_cast<uint8_t>(from.parts[from.count++]);
}

// Whether every field of T is aligned to words, or no longer than one scale.
template <class T, class View, int F = 0>
constexpr bool loads_are_whole() {
  if constexpr (F == sizeof(T::kFields) / sizeof(Field)) {
    return true;
  } else {
    return (View::template align<F>() >= 4 || T::kFields[F].size <= 2) &&
           loads_are_whole<T, View, F + 1>();
  }
}

template <class T, class View, bool = loads_are_whole<T, View>()>
struct Flight {
  typename T::Raw raw;

  template <class Part = Everything>
  __device__ __forceinline__ void load(const View& view, int block, int step, Part part = {}) {
    raw = T::load(part(view), block, step);
  }
  template <class Part = Everything>
  __device__ __forceinline__ typename T::Raw settle(int, int, Part = {}) const {
    return raw;
  }
};

template <class T>
struct Flight<T, FileView<T>, false> {
  // Two more than a read gives, for every read; what T does not use is never kept.
  uint32_t parts[sizeof(typename T::Raw) / 4 + 2 * (sizeof(T::kFields) / sizeof(Field) + 1)];
  uint32_t row;

  template <class Part = Everything>
  __device__ __forceinline__ void load(const FileView<T>& view, int block, int step,
                                       Part part = {}) {
    int count = 0;
    row = low_bits(view.row);
    (void)T::load(part(LoadingView<FileView<T>>{view, parts, count}), block, step);
  }
  template <class Part = Everything>
  __device__ __forceinline__ typename T::Raw settle(int block, int step, Part part = {}) const {
    int count = 0;
    return T::load(part(SettlingView<T>{row, parts, count}), block, step);
  }
};

}  // namespace rocmforge::gpu
