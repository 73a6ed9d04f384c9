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

  __device__ __forceinline__ RegisterSupply(uint8_t*, int, int, const View&) {}

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

// kBlocks blocks of each of kRows rows to a stage.
template <class T, class View, int kRows, int kAhead, int kBlocks>
class Ring {
  static constexpr int kPlanes = View::kPlanes;

  // Copies are whole groups of 16 bytes, of which some at the ends may belong to neighbours.
  template <int P>
  static constexpr int pieces() {
    constexpr int align = View::template plane_align<P>();
    constexpr int neighbours = align % 16 == 0 ? 0 : 16 - align;
    return (kBlocks * View::template plane_size<P>() + neighbours + 15) / 16;
  }
  template <int P>
  static constexpr int part_bytes() {
    return 16 * pieces<P>();
  }
  // Of the parts of a row up to plane P, one behind the other; whether one of them is large.
  template <int P>
  static constexpr int bytes_before() {
    if constexpr (P == 0) return 0;
    if constexpr (P > 0) return bytes_before<P - 1>() + part_bytes<P - 1>();
  }
  template <int P>
  static constexpr bool large_before() {
    if constexpr (P == 0) return false;
    if constexpr (P > 0) return large_before<P - 1>() || part_bytes<P - 1>() > 64;
  }
  // From a row's part of a plane to the next row's. Memory is read by sectors of 32 bytes and asked
  // by lines of 128: what goes to two of LDS is read, or asked for, twice. A pair's parts have
  // lines of their own. The parts of more rows follow each other, and rows start an odd number of
  // sectors apart or, without large parts, of pieces: so the same place of them is in different
  // banks.
  template <int P>
  static constexpr int row_bytes() {
    if constexpr (kRows == kPair) {
      constexpr int unit = part_bytes<P>() < 128 ? 32 : 128;
      return (part_bytes<P>() + unit - 1) / unit * unit;
    } else {
      constexpr int bytes = bytes_before<kPlanes>(), sectors = (bytes + 31) / 32;
      return large_before<kPlanes>() ? 32 * (sectors | 1) : bytes | 16;
    }
  }
  template <int P>
  static constexpr int plane_offset() {
    if constexpr (kRows > kPair) {
      return P == kPlanes ? kRows * row_bytes<0>() : bytes_before<P>();
    } else if constexpr (P == 0) {
      return 0;
    } else {
      return plane_offset<P - 1>() + kRows * row_bytes<P - 1>();
    }
  }
  // Lanes that copy a row's part of a plane; one piece more makes them go round twice.
  template <int P>
  static constexpr int lanes_to_a_row() {
    int lanes = kWaveSize;
    while (lanes * kRows > kWaveSize && pieces<P>() <= lanes / 2 + 1) lanes /= 2;
    return lanes;
  }

  // How far behind a multiple of 16 a plane's part of a stage starts.
  template <int P>
  static __device__ __forceinline__ int misplaced(const View& view, int stage) {
    if constexpr (View::template plane_align<P>() % 16 == 0) return 0;
    constexpr bool alike = kBlocks * View::template plane_size<P>() % 16 == 0;  // of all stages
    return static_cast<int>(low_bits(view.template plane<P>(alike ? 0 : stage * kBlocks)) & 15);
  }

  static __device__ __forceinline__ const uint8_t* whole_pieces(const uint8_t* from) {
    return reinterpret_cast<const uint8_t*>(reinterpret_cast<uintptr_t>(from) & ~uintptr_t{15});
  }

  // Copies pieces `first`, first + kStep, ... of plane P of a row, whose part of the stage begins
  // `before` bytes behind piece 0; `from` is piece `first`. kWhole: `blocks` is kBlocks.
  template <int P, int kStep, bool kWhole>
  static __device__ __forceinline__ void copy(const uint8_t* from, int before, int blocks,
                                              int first, uint8_t* to) {
    constexpr int size = View::template plane_size<P>();
    const int bytes = before + (kWhole ? kBlocks : smaller(blocks, kBlocks)) * size;
    to += plane_offset<P>() + 16 * first;
    for_each_group<(pieces<P>() + kStep - 1) / kStep>([&](auto i) {
      constexpr bool needed = kWhole && 16 * kStep * (i + 1) <= kBlocks * size;
      if (needed || 16 * (first + kStep * i) < bytes) {
        copy_to_lds<16>(from + 16 * kStep * i, to + 16 * kStep * i);
      }
    });
  }

  uint8_t* stages_;  // [kAhead][kStageBytes]

 public:
  static constexpr int kStageBytes = (plane_offset<kPlanes>() + 127) / 128 * 128;
  static constexpr int bytes_per_wave() { return kAhead * kStageBytes; }

  // `lds`: bytes_per_wave() for every wave of the block.
  __device__ __forceinline__ Ring(uint8_t* lds, int wave)
      : stages_(lds_address(lds + wave * bytes_per_wave())) {}

  // What a lane copies of a stage, for stages of the same rows one after the other: aim() says
  // which is the first, load_next() loads it and goes on. Where the lane begins in the planes of a
  // row `from` is worked out once.
  struct Origins {
    View from;
    const uint8_t* planes[kPlanes];

    __device__ __forceinline__ Origins(const View& from, int lane) : from(from) {
      for_each_group<kPlanes>([&](auto p) {
        planes[p] = kept_address(from.template plane<p>(0) + 16 * (lane % lanes_to_a_row<p>()));
      });
    }
  };
  template <int P>
  static constexpr int copies_before() {
    if constexpr (P == 0) {
      return 0;
    } else {
      return copies_before<P - 1>() + kRows * lanes_to_a_row<P - 1>() / kWaveSize;
    }
  }
  struct Source {
    const uint8_t* parts[copies_before<kPlanes>()];  // of rows, by planes
  };
  template <typename ViewOf>
  static __device__ __forceinline__ void aim(Source& source, int stage, int lane, ViewOf view_of) {
    for_each_group<kPlanes>([&](auto p) {
      constexpr int lanes = lanes_to_a_row<p>(), rows = kWaveSize / lanes;
#pragma unroll
      for (int i = 0; i < kRows / rows; ++i) {
        source.parts[copies_before<p>() + i] =
            view_of(rows * i + lane / lanes).template plane<p>(stage * kBlocks) +
            16 * (lane % lanes);
      }
    });
  }
  template <typename ViewOf>
  static __device__ __forceinline__ void aim(Source& source, const Origins& origins, int stage,
                                             int lane, ViewOf view_of) {
    for_each_group<kPlanes>([&](auto p) {
      constexpr int lanes = lanes_to_a_row<p>(), rows = kWaveSize / lanes;
#pragma unroll
      for (int i = 0; i < kRows / rows; ++i) {
        source.parts[copies_before<p>() + i] =
            view_of(rows * i + lane / lanes)
                .template plane_after<p>(stage * kBlocks, origins.from, origins.planes[p]);
      }
    });
  }
  // kWhole: the stage has kBlocks blocks; else `blocks`, of which more than kBlocks are too many.
  template <bool kWhole>
  __device__ __forceinline__ void load_next(int a, Source& source, int blocks, int lane) {
    uint8_t* to = stages_ + a * kStageBytes;
    wave_barrier();  // nobody reads what was there
    for_each_group<kPlanes>([&](auto p) {
      constexpr int lanes = lanes_to_a_row<p>(), rows = kWaveSize / lanes;
#pragma unroll
      for (int i = 0; i < kRows / rows; ++i) {
        const uint8_t*& from = source.parts[copies_before<p>() + i];
        constexpr bool aligned = View::template plane_align<p>() % 16 == 0;
        const int before = aligned ? 0 : static_cast<int>(low_bits(from) & 15);
        copy<p, lanes, kWhole>(aligned ? from : whole_pieces(from), before, blocks, lane % lanes,
                               to + (rows * i + lane / lanes) * row_bytes<p>());
        from += kBlocks * View::template plane_size<p>();
      }
    });
    close_copies();
  }
  __device__ __forceinline__ void skip() { close_copies(); }
  __device__ __forceinline__ void wait() const {
    await_copies<kAhead - 1>();
    wave_barrier();
  }

  // Row r of what stage a has; `view` is that row in memory.
  __device__ __forceinline__ LdsView<T, View> row(int a, int r, const View& view, int stage) const {
    LdsView<T, View> row;
    for_each_group<kPlanes>([&](auto p) {
      row.planes[p] = stages_ + a * kStageBytes + plane_offset<p>() + r * row_bytes<p>() +
                      misplaced<p>(view, stage);
    });
    return row;
  }
};

template <class T, class View, int kAhead, int kChunks>
class RingSupply {
  using Raw = typename T::Raw;
  static constexpr int kChunkBlocks = kWaveSize / kSteps<T>;
  static_assert(kWaveSize % kSteps<T> == 0);
  static constexpr int kStageBlocks = kChunks * kChunkBlocks;
  using Stages = Ring<T, View, kPair, kAhead, kStageBlocks>;
  Stages ring_;
  typename Stages::Origins origins_;

 public:
  static constexpr int bytes_per_wave() { return Stages::bytes_per_wave(); }

  __device__ __forceinline__ RingSupply(uint8_t* lds, int wave, int lane, const View& row)
      : ring_(lds, wave), origins_(row, lane) {}

  template <typename ViewOf>
  __device__ __forceinline__ void load(int a, const WalkPlace& place, int steps, int lane,
                                       ViewOf view_of) {
    typename Stages::Source source;
    Stages::aim(source, origins_, place.stage, lane, [&](int r) { return view_of(place.pair, r); });
    const int left = steps / kSteps<T> - place.stage * kStageBlocks;
    if (left >= kStageBlocks) {
      ring_.template load_next<true>(a, source, kStageBlocks, lane);
    } else {
      ring_.template load_next<false>(a, source, left, lane);
    }
  }
  __device__ __forceinline__ void skip(int) { ring_.skip(); }
  __device__ __forceinline__ void wait(int) const { ring_.wait(); }

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
      opened.rows[r] = ring_.row(a, r, view_of(place.pair, r), place.stage);
    }
    return opened;
  }
};

template <class T, class View, int kAhead, int kChunks>
using Supply = std::conditional_t<kCopiesAhead, RingSupply<T, View, kAhead, kChunks>,
                                  RegisterSupply<T, View, kAhead, kChunks>>;

}  // namespace rocmforge::gpu
