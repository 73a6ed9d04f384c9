// The weights that a wave works at next, on their way: kAhead stages of them, each up to kChunks
// chunks of kPair rows, a chunk as many steps of a row as a wave has lanes.
//
// load(a, ...) has stage a filled, or skip(a) leaves it; wait(a) waits until it is. Both by all
// lanes, in turn for a = 0 to kAhead - 1, again and again. open(a, ...) then gives the rows' chunks
// by take(c, raw). Where loads come back in order stages are registers; elsewhere a ring in LDS,
// to which the blocks of a wave's chunks are copied.
#pragma once

#include "hip/quants/flight.h"
#include "hip/quants/table.h"

namespace rocmforge::gpu {

constexpr int kPair = 2;  // rows of w

// A place in the walk of a wave: a pair of rows, and which of its stages.
struct WalkPlace {
  int pair, stage;
};

template <class T, class View, int kAhead, int kChunks>
class RegisterSupply {
  using Raw = typename T::Raw;
  Flight<T, View> flights_[kAhead][kChunks][kPair];

 public:
  static constexpr int bytes_per_wave() { return 0; }

  __device__ __forceinline__ RegisterSupply(uint8_t*, int) {}

  template <typename ViewOf>
  __device__ __forceinline__ void load(int a, const WalkPlace& place, int steps, int lane,
                                       ViewOf view_of) {
#pragma unroll
    for (int c = 0; c < kChunks; ++c) {
      int s = (place.stage * kChunks + c) * kWaveSize + lane;
      if (s >= steps) s = steps - 1;  // not used
#pragma unroll
      for (int r = 0; r < kPair; ++r) {
        flights_[a][c][r].load(view_of(place.pair, r), s / kSteps<T>, s % kSteps<T>);
      }
    }
  }
  __device__ __forceinline__ void skip(int) {}
  __device__ __forceinline__ void wait(int) const {}

  struct Opened {
    const Flight<T, View> (&flights)[kChunks][kPair];
    int s;  // of chunk 0
    __device__ __forceinline__ void take(int c, Raw (&raw)[kPair]) const {
      const int at = s + c * kWaveSize;
#pragma unroll
      for (int r = 0; r < kPair; ++r) {
        raw[r] = flights[c][r].settle(at / kSteps<T>, at % kSteps<T>);
      }
    }
  };
  template <typename ViewOf>
  __device__ __forceinline__ Opened open(int a, const WalkPlace& place, int lane, ViewOf) const {
    return {flights_[a], place.stage * kChunks * kWaveSize + lane};
  }
};

// Where in LDS the fields of blocks stand, as View says where they stand in a matrix.
template <class T, class View>
struct LdsView {
  const uint8_t* planes[View::kPlanes];  // each from the first block of a stage on

  template <int F>
  static constexpr int align() {
    return View::template align<F>();
  }
  template <int F>
  static constexpr bool head() {
    return View::template head<F>();
  }
  template <int F>
  __device__ __forceinline__ const uint8_t* field(int block) const {
    constexpr int p = View::template plane_of<F>();
    return planes[p] + block * View::template plane_size<p>() + View::template within<F>();
  }
};

template <class T, class View, int kAhead, int kChunks>
class RingSupply {
  using Raw = typename T::Raw;
  static constexpr int kPlanes = View::kPlanes;
  static constexpr int kChunkBlocks = kWaveSize / kSteps<T>, kBlocks = kChunks * kChunkBlocks;
  static_assert(kWaveSize % kSteps<T> == 0);

  // Copies are whole groups of 16 bytes, of which some at the ends may belong to neighbours.
  template <int P>
  static constexpr int pieces() {
    constexpr int neighbours = View::template plane_align<P>() % 16 == 0 ? 0 : 15;
    return (kBlocks * View::template plane_size<P>() + neighbours + 15) / 16;
  }
  template <int P>
  static constexpr int plane_offset() {
    if constexpr (P == 0) {
      return 0;
    } else {
      return plane_offset<P - 1>() + 16 * pieces<P - 1>();
    }
  }
  static constexpr int kRowBytes = plane_offset<kPlanes>(), kStageBytes = kPair * kRowBytes;

  // How far behind a multiple of 16 a plane's part of a stage starts.
  template <int P>
  static __device__ __forceinline__ int misplaced(const View& view, int stage) {
    if constexpr (View::template plane_align<P>() % 16 == 0) return 0;
    constexpr bool alike = kBlocks * View::template plane_size<P>() % 16 == 0;  // of all stages
    return static_cast<int>(low_bits(view.template plane<P>(alike ? 0 : stage * kBlocks)) & 15);
  }

  // Copies pieces `first`, first + kStep, ... of plane P of a row.
  template <int P, int kStep>
  static __device__ __forceinline__ void copy(const View& view, int stage, int blocks, int first,
                                              uint8_t* to) {
    const int before = misplaced<P>(view, stage);
    const int bytes = before + blocks * View::template plane_size<P>();
    const uint8_t* from = view.template plane<P>(stage * kBlocks) - before + 16 * first;
    to += plane_offset<P>() + 16 * first;
#pragma unroll
    for (int i = 0; i < (pieces<P>() + kStep - 1) / kStep; ++i) {
      if (16 * (first + kStep * i) < bytes)
        copy_to_lds<16>(from + 16 * kStep * i, to + 16 * kStep * i);
    }
  }

  uint8_t* stages_;  // [kAhead][kPair][kRowBytes]

 public:
  static constexpr int bytes_per_wave() { return kAhead * kStageBytes; }

  // `lds`: bytes_per_wave() for every wave of the block.
  __device__ __forceinline__ RingSupply(uint8_t* lds, int wave)
      : stages_(lds_address(lds + wave * bytes_per_wave())) {}

  template <typename ViewOf>
  __device__ __forceinline__ void load(int a, const WalkPlace& place, int steps, int lane,
                                       ViewOf view_of) {
    const int left = steps / kSteps<T> - place.stage * kBlocks;
    const int blocks = left < kBlocks ? left : kBlocks;
    uint8_t* stage = stages_ + a * kStageBytes;
    wave_barrier();  // nobody reads what was there
    const View rows[kPair] = {view_of(place.pair, 0), view_of(place.pair, 1)};
    constexpr int kShare = kWaveSize / kPair;  // lanes to a row where its part is short
    const int mine = lane / kShare;
    const View own = view_of(place.pair, mine);
    for_each_group<kPlanes>([&](auto p) {
      if constexpr (pieces<p>() <= kShare + 1) {
        copy<p, kShare>(own, place.stage, blocks, lane % kShare, stage + mine * kRowBytes);
      } else {
#pragma unroll
        for (int r = 0; r < kPair; ++r) {
          copy<p, kWaveSize>(rows[r], place.stage, blocks, lane, stage + r * kRowBytes);
        }
      }
    });
    close_copies();
  }
  __device__ __forceinline__ void skip(int) { close_copies(); }
  __device__ __forceinline__ void wait(int) const {
    await_copies<kAhead - 1>();
    wave_barrier();
  }

  struct Opened {
    LdsView<T, View> rows[kPair];
    int block, step;  // of the lane, in chunk 0
    __device__ __forceinline__ void take(int c, Raw (&raw)[kPair]) const {
#pragma unroll
      for (int r = 0; r < kPair; ++r) raw[r] = T::load(rows[r], block + c * kChunkBlocks, step);
    }
  };
  template <typename ViewOf>
  __device__ __forceinline__ Opened open(int a, const WalkPlace& place, int lane,
                                         ViewOf view_of) const {
    Opened opened{{}, lane / kSteps<T>, lane % kSteps<T>};
#pragma unroll
    for (int r = 0; r < kPair; ++r) {
      for_each_group<kPlanes>([&](auto p) {
        opened.rows[r].planes[p] = stages_ + a * kStageBytes + r * kRowBytes + plane_offset<p>() +
                                   misplaced<p>(view_of(place.pair, r), place.stage);
      });
    }
    return opened;
  }
};

template <class T, class View, int kAhead, int kChunks>
using Supply = std::conditional_t<kCopiesAhead, RingSupply<T, View, kAhead, kChunks>,
                                  RegisterSupply<T, View, kAhead, kChunks>>;

}  // namespace rocmforge::gpu
