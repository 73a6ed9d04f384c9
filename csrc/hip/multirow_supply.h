// The weights of a tile of 16 rows, on their way to a wave by stages of some bodies of x.
//
// aim() says which stage of which tile load(a, ...) next has copied to place a; after it follow
// those of the same tile, without another aim(). skip() leaves a place as it is; wait() waits
// until it is filled. open(a, ...) then gives what the lane uses of it:
//   each_scale(body)         body(i, row, s, raw) for the i-th of kScaledSteps steps s of the stage
//                            and rows whose scales and minima the lane has to work out; raw has
//                            nothing else
//   take<Body>(raw)          the steps of a body: slices of them, or whole ones (kTaken)
#pragma once

#include "hip/multirow_input.h"
#include "hip/quants/slices.h"
#include "hip/quants/supply.h"

namespace rocmforge::gpu {

constexpr int kTileRowsA = 16;

// Steps do not depend on how many rows of x there are.
template <class T>
struct Stage {
  static constexpr int kBodySteps = Body<T, 8>::kSteps, kWidth = Body<T, 8>::kWidth;
  static constexpr int kBodies = kCopiesAhead && kWidth < 256 ? 256 / kWidth : 1;
  static constexpr int kSteps = kBodies * kBodySteps, kUnits = kBodies * Body<T, 8>::kUnits;
  // Steps of a body that a lane decodes: slices of all, or some as a whole.
  static constexpr int kTaken = kWordwise<T> ? kBodySteps : kBodySteps / kSlots;
  // The number of the one that it takes as number q.
  static __device__ __forceinline__ int taken(int lane, int q) {
    return kWordwise<T> ? q : q * kSlots + slot(lane);
  }
};

// The rows of a tile: row i is first + i % 8 + i / 8 * offset.
template <class View>
struct TileViews {
  const uint8_t* w;
  int rows, row_bytes, first, offset;
  // Rows past the last are computed like it and left out.
  __device__ __forceinline__ View operator()(int i) const {
    const int row = first + i % 8 + i / 8 * offset;
    return View(w, rows, row_bytes, row < rows ? row : rows - 1);
  }
};

template <class T>
using TakenSteps = typename T::Raw[Stage<T>::kTaken][kLaneRowsA];

// A step of which a lane takes its slice or everything.
template <class T, class View>
__device__ __forceinline__ typename T::Raw load_taken(const View& view, int lane, int s) {
  if constexpr (kWordwise<T>) {
    return T::load(Slice{slot(lane)}(view), s / kSteps<T>, s % kSteps<T>);
  } else {
    return T::load(view, s / kSteps<T>, s % kSteps<T>);
  }
}

template <class T, class View>
class RingTiles {
  using S = Stage<T>;
  static constexpr int kBlocks = S::kSteps / kSteps<T>;  // of a row, in a stage
  static_assert(S::kSteps % kSteps<T> == 0);
  // Enough is on its way with two large stages.
  static constexpr int kAhead =
      Ring<T, View, kTileRowsA, 1, kBlocks>::kStageBytes > 3 << 10 ? 2 : 3;
  using Stages = Ring<T, View, kTileRowsA, kAhead, kBlocks>;
  Stages ring_;
  typename Stages::Source source_;

 public:
  static constexpr int kStages = kAhead;
  static constexpr int bytes_per_wave() { return Stages::bytes_per_wave(); }

  __device__ __forceinline__ RingTiles(uint8_t* lds, int wave) : ring_(lds, wave) {}

  __device__ __forceinline__ void aim(int stage, int lane, const TileViews<View>& view_of) {
    Stages::aim(source_, stage, lane, view_of);
  }
  __device__ __forceinline__ void load(int a, int stage, int steps, int lane) {
    const int blocks = steps / kSteps<T> - stage * kBlocks;
    if (blocks >= kBlocks) {
      ring_.template load_next<true>(a, source_, kBlocks, lane);
    } else {
      ring_.template load_next<false>(a, source_, blocks, lane);
    }
  }
  __device__ __forceinline__ void skip() { ring_.skip(); }
  __device__ __forceinline__ void wait() const { ring_.wait(); }

  struct Opened {
    LdsView<T, View> rows[kLaneRowsA], scaled;
    int lane;

    static constexpr int kAtOnce = kWaveSize / kTileRowsA, kScaledSteps = S::kSteps / kAtOnce;
    template <typename Then>
    __device__ __forceinline__ void each_scale(Then then) const {
      for_each_group<kScaledSteps>([&](auto i) {
        const int s = i * kAtOnce + lane / kTileRowsA;
        then(i, lane % kTileRowsA, s, T::load(scaled, s / kSteps<T>, s % kSteps<T>));
      });
    }
    template <int kBody>
    __device__ __forceinline__ void take(TakenSteps<T>& raw) const {
      for_each_group<S::kTaken>([&](auto q) {
#pragma unroll
        for (int i = 0; i < kLaneRowsA; ++i) {
          raw[q][i] = load_taken<T>(rows[i], lane, kBody * S::kBodySteps + S::taken(lane, q));
        }
      });
    }
  };
  template <typename ViewOf>
  __device__ __forceinline__ Opened open(int a, int stage, int, int lane, ViewOf view_of) const {
    Opened opened{{}, {}, lane};
#pragma unroll
    for (int i = 0; i < kLaneRowsA; ++i) {
      const int r = row_of_a(lane, i);
      opened.rows[i] = ring_.row(a, r, view_of(r), stage);
    }
    const int r = lane % kTileRowsA;
    opened.scaled = ring_.row(a, r, view_of(r), stage);
    return opened;
  }
};

template <class T, class View>
class RegisterTiles {
  using S = Stage<T>;
  static_assert(kCopiesAhead || S::kBodies == 1);
  using Part = std::conditional_t<kWordwise<T>, Slice, Everything>;
  Flight<T, View> flights_[S::kTaken][kLaneRowsA];
  TileViews<View> views_;

  static __device__ __forceinline__ Part part(int lane) {
    if constexpr (kWordwise<T>) {
      return {slot(lane)};
    } else {
      return {};
    }
  }
  static __device__ __forceinline__ int step_of(int stage, int steps, int lane, int q) {
    const int s = stage * S::kSteps + S::taken(lane, q);
    return s < steps ? s : steps - 1;  // not used
  }

 public:
  static constexpr int kStages = 1;
  static constexpr int bytes_per_wave() { return 0; }

  __device__ __forceinline__ RegisterTiles(uint8_t*, int) {}

  __device__ __forceinline__ void aim(int, int, const TileViews<View>& views) { views_ = views; }
  __device__ __forceinline__ void load(int, int stage, int steps, int lane) {
#pragma unroll
    for (int q = 0; q < S::kTaken; ++q) {
      const int s = step_of(stage, steps, lane, q);
#pragma unroll
      for (int i = 0; i < kLaneRowsA; ++i) {
        flights_[q][i].load(views_(row_of_a(lane, i)), s / kSteps<T>, s % kSteps<T>, part(lane));
      }
    }
  }
  __device__ __forceinline__ void skip() {}
  __device__ __forceinline__ void wait() const {}

  struct Opened {
    TakenSteps<T> steps;
    int lane;

    static constexpr int kScaledSteps = S::kTaken * kLaneRowsA;
    template <typename Then>
    __device__ __forceinline__ void each_scale(Then then) const {
      for_each_group<kScaledSteps>([&](auto n) {
        constexpr int q = n / kLaneRowsA, i = n % kLaneRowsA;
        then(n, row_of_a(lane, i), S::taken(lane, q), steps[q][i]);
      });
    }
    template <int>
    __device__ __forceinline__ void take(TakenSteps<T>& raw) const {
#pragma unroll
      for (int q = 0; q < S::kTaken; ++q) {
#pragma unroll
        for (int i = 0; i < kLaneRowsA; ++i) raw[q][i] = steps[q][i];
      }
    }
  };
  template <typename ViewOf>
  __device__ __forceinline__ Opened open(int, int stage, int steps, int lane, ViewOf) const {
    Opened opened{{}, lane};
#pragma unroll
    for (int q = 0; q < S::kTaken; ++q) {
      const int s = step_of(stage, steps, lane, q);
#pragma unroll
      for (int i = 0; i < kLaneRowsA; ++i) {
        opened.steps[q][i] = flights_[q][i].settle(s / kSteps<T>, s % kSteps<T>, part(lane));
      }
    }
    return opened;
  }
};

template <class T, class View>
using TileSupply = std::conditional_t<kCopiesAhead, RingTiles<T, View>, RegisterTiles<T, View>>;

}  // namespace rocmforge::gpu
