// Attention's two products for eight queries at a time, where keys and values stand in LDS as the
// cache has them (attention_rows.h). Queries are columns of the matrix units' results: rows are 16
// keys of scores, then 16 dims of what values come to. A lane has columns 2 * (lane % 4) and the
// next of both, so that a weight goes on to the second product where its score was.
//
//   KeyProducts<T, Format, kBucket>            eight queries; load() reads them, multiply() gives
//                                              scores of 16 keys, element e of which is number
//                                              lane / 4 (key_row) of eight, and then of eight
//                                              more, and query e % 2 of the lane's
//   ValueSums<T, Format, kBucket, kTiles>      sums of values by weights of kTiles times eight
//                                              queries: value(j, i, e) is dim(i, e) of query e % 2
//   kWeightLift<Format>                        weights are so many powers of two larger
//
// Codes of blocks are multiplied as they are. Those of keys meet queries as integers of 15 bits, in
// two bytes; scales of values go to the weights, whose number is a tenth of theirs.
#pragma once

#include "hip/attention_matrix.h"
#include "hip/attention_rows.h"

namespace rocmforge::gpu {

// Two numbers of 16 bits.
__device__ __forceinline__ float2 unpack_pair(DType dtype, uint32_t pair) {
  if (dtype == DType::kFloat16) return make_float2(low_half(pair), high_half(pair));
  return make_float2(__uint_as_float(pair << 16), __uint_as_float(pair & 0xffff0000u));
}

template <typename T, class Format, int kBucket>
struct KeyProducts {
  using Fragments = RowFragments<Format, kBucket>;
  static constexpr int kSteps = Fragments::kSteps, kGroups = kBucket / 16 / kSteps;
  StepB<T> queries[kGroups][kSteps];

  // pair_of(dim): values dim and dim + 1 of query lane / 4. `room` is the wave's, of eight numbers.
  template <class PairOf>
  __device__ __forceinline__ void load(DType dtype, PairOf pair_of, float*) {
    const auto each = [&](auto body) {
#pragma unroll
      for (int n = 0; n < kGroups; ++n) {
#pragma unroll
        for (int s = 0; s < kSteps; ++s) {
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            body(queries[n][s].words[half], Fragments::key_dim(n, threadIdx.x % kSlots, s, half));
          }
        }
      }
    };
    each([&](uint32_t& word, int dim) { word = pair_of(dim); });
    constexpr DType kOwn = std::is_same_v<T, __half> ? DType::kFloat16 : DType::kBFloat16;
    if (dtype != kOwn) {
      each([&](uint32_t& word, int) { word = convert_pair<T>(dtype, word); });
    }
  }

  // keys: where those of the lane, lane / 4 and eight more, stand.
  template <int kTiles>
  static __device__ __forceinline__ void multiply(const uint8_t* const (&keys)[2],
                                                  const KeyProducts (&tiles)[kTiles],
                                                  float (&scores)[kTiles][4]) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (float& score : scores[j]) score = 0.0f;
    }
#pragma unroll
    for (int n = 0; n < kGroups; ++n) {
      StepB<T> k[2][kSteps];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        Fragments::load_keys(keys[r], n, threadIdx.x % kSlots, k[r]);
      }
#pragma unroll
      for (int s = 0; s < kSteps; ++s) {
        const StepA<T> a = {
            {k[0][s].words[0], k[1][s].words[0], k[0][s].words[1], k[1][s].words[1]}};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) multiply_step(scores[j], a, tiles[j].queries[n][s]);
      }
    }
  }
};

template <typename T, class Codes, int kBucket>
struct KeyProducts<T, BlockCache<Codes>, kBucket> {
  using Fragments = RowFragments<BlockCache<Codes>, kBucket>;
  static constexpr int kBlocks = kBucket / 32;
  static constexpr int kMost = 127 * 128 + 63;  // 128 times a byte and another, from -64 to 63
  StepB<int8_t> high[kBlocks], low[kBlocks];
  float scales[2];  // of the lane's columns

  template <class PairOf>
  __device__ __forceinline__ void load(DType dtype, PairOf pair_of, float* room) {
    const int lane = threadIdx.x % kWaveSize;
    uint32_t pairs[kBlocks][2][2];
    const auto each = [&](auto body) {
#pragma unroll
      for (int b = 0; b < kBlocks; ++b) {
#pragma unroll
        for (int w = 0; w < 2; ++w) {
#pragma unroll
          for (int half = 0; half < 2; ++half) body(pairs[b][w][half], b, w, half);
        }
      }
    };
    each([&](uint32_t& pair, int b, int w, int half) {
      pair = pair_of(Fragments::key_dim(b / 2, lane % kSlots, b % 2 * 2 + w, half));
    });
    float largest = 0.0f, undefined = 0.0f;  // the second is not 0 where a value is not finite
    each([&](uint32_t& pair, int, int, int) {
      const float2 values = unpack_pair(dtype, pair);
      largest = fmaxf(largest, fmaxf(fabsf(values.x), fabsf(values.y)));
      undefined += values.x * 0.0f + values.y * 0.0f;
    });
#pragma unroll
    for (int mask = 1; mask < kSlots; mask *= 2) {
      largest = fmaxf(largest, wave_shuffle_xor(largest, mask));
      undefined += wave_shuffle_xor(undefined, mask);
    }
    if (lane % kSlots == 0)
      room[lane / kSlots] = largest / (kMost * Codes::kSignedUnit) + undefined;
    wave_barrier();
    scales[0] = room[lane % kSlots * 2], scales[1] = room[lane % kSlots * 2 + 1];
    wave_barrier();
    const float inverse = largest > 0.0f ? kMost / largest : 0.0f;
    each([&](uint32_t& pair, int b, int w, int half) {
      const float2 values = unpack_pair(dtype, pair);
      const int first = __float2int_rn(values.x * inverse);
      const int second = __float2int_rn(values.y * inverse);
      const int above[2] = {(first + 64) >> 7, (second + 64) >> 7};
      const uint32_t highs = (above[0] & 255) | (above[1] & 255) << 8;
      const uint32_t lows = ((first - (above[0] << 7)) & 255) | ((second - (above[1] << 7)) & 255)
                                                                    << 8;
      high[b].words[w] = half == 0 ? highs : high[b].words[w] | highs << 16;
      low[b].words[w] = half == 0 ? lows : low[b].words[w] | lows << 16;
    });
  }

  template <int kTiles>
  static __device__ __forceinline__ void multiply(const uint8_t* const (&keys)[2],
                                                  const KeyProducts (&tiles)[kTiles],
                                                  float (&scores)[kTiles][4]) {
#pragma unroll
    for (int n = 0; n < kBlocks / 2; ++n) {
      uint32_t codes[2][2][2];
      float of_keys[2][2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        Fragments::load_keys(keys[r], n, threadIdx.x % kSlots, codes[r], of_keys[r]);
      }
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        const StepA<int8_t> a = {{codes[0][b][0], codes[1][b][0], codes[0][b][1], codes[1][b][1]}};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
          int highs[4], lows[4];
          multiply_step(highs, a, tiles[j].high[2 * n + b]);
          multiply_step(lows, a, tiles[j].low[2 * n + b]);
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const float dot = static_cast<float>(128 * highs[e] + lows[e]);
            const float before = n == 0 && b == 0 ? 0.0f : scores[j][e];
            scores[j][e] = fmaf(of_keys[e / 2][b], dot, before);
          }
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (int e = 0; e < 4; ++e) scores[j][e] *= tiles[j].scales[e % 2];
    }
  }
};

template <class Format>
constexpr int kWeightLift = 0;
// A weight times a scale is a float16, and small: as far up as what overflows has no finite value.
template <class Codes>
constexpr int kWeightLift<BlockCache<Codes>> = 6;

template <typename T, class Format, int kBucket, int kTiles>
struct ValueSums {
  using Fragments = RowFragments<Format, kBucket>;
  float sums[kTiles][kBucket / 16][4] = {};

  static __device__ __forceinline__ int dim(int i, int e) {
    return Fragments::value_dim(i / 4, i % 4 * 2 + e / 2, threadIdx.x % kWaveSize / kSlots);
  }
  __device__ __forceinline__ float value(int j, int i, int e) const { return sums[j][i][e]; }
  __device__ __forceinline__ void rescale(const float (&factors)[2 * kTiles]) {
#pragma unroll
    for (int j = 0; j < kTiles; ++j) {
#pragma unroll
      for (auto& tile : sums[j]) {
#pragma unroll
        for (int e = 0; e < 4; ++e) tile[e] *= factors[2 * j + e % 2];
      }
    }
  }
  __device__ __forceinline__ void add(const StagedRows& rows, const StepB<T> (&weights)[kTiles]) {
#pragma unroll
    for (int n = 0; n < kBucket / 64; ++n) {
      StepB<T> v[8];
      Fragments::load_values(rows, n, threadIdx.x % kWaveSize, v);
#pragma unroll
      for (int i = 0; i < 8; i += 2) {
        const StepA<T> a = {{v[i].words[0], v[i + 1].words[0], v[i].words[1], v[i + 1].words[1]}};
#pragma unroll
        for (int j = 0; j < kTiles; ++j) multiply_step(sums[j][4 * n + i / 2], a, weights[j]);
      }
    }
  }
};

// Codes are bytes above 0 in a float16's last bits, without an exponent: 2^-24 times what they are.
// What they are more than values is summed as well, and subtracted in the end.
template <typename T, class Codes, int kBucket, int kTiles>
struct ValueSums<T, BlockCache<Codes>, kBucket, kTiles> {
  using Fragments = RowFragments<BlockCache<Codes>, kBucket>;
  float sums[kTiles][kBucket / 16][4] = {}, zeros[kTiles][kBucket / 32][4] = {};

  static __device__ __forceinline__ int dim(int i, int e) {
    return Fragments::value_dim(i / 4, i % 4 * 2 + e / 2, threadIdx.x % kWaveSize / kSlots);
  }
  __device__ __forceinline__ float value(int j, int i, int e) const {
    return (sums[j][i][e] - zeros[j][i / 2][e]) * (1 << 24);
  }
  __device__ __forceinline__ void rescale(const float (&factors)[2 * kTiles]) {
    const auto each = [&](auto& tiles, int j) {
#pragma unroll
      for (auto& tile : tiles) {
#pragma unroll
        for (int e = 0; e < 4; ++e) tile[e] *= factors[2 * j + e % 2];
      }
    };
#pragma unroll
    for (int j = 0; j < kTiles; ++j) each(sums[j], j), each(zeros[j], j);
  }
  __device__ __forceinline__ void add(const StagedRows& rows, const StepB<T> (&weights)[kTiles]) {
    constexpr uint32_t kZeros = Codes::kZero * 0x10001u;
#pragma unroll
    for (int n = 0; n < kBucket / 64; ++n) {
      StepB<T> v[8];
      uint32_t scales[2][2];
      Fragments::load_values(rows, n, threadIdx.x % kWaveSize, v, scales);
#pragma unroll
      for (int b = 0; b < 2; ++b) {
        StepB<T> scaled[kTiles];
#pragma unroll
        for (int j = 0; j < kTiles; ++j) {
#pragma unroll
          for (int k = 0; k < 2; ++k) {
            scaled[j].words[k] =
                half2_bits(__hmul2(as_half2(weights[j].words[k]), as_half2(scales[b][k])));
          }
          multiply_step(zeros[j][2 * n + b], StepA<T>{{kZeros, kZeros, kZeros, kZeros}}, scaled[j]);
        }
#pragma unroll
        for (int i = 4 * b; i < 4 * b + 4; i += 2) {
          const StepA<T> a = {{v[i].words[0], v[i + 1].words[0], v[i].words[1], v[i + 1].words[1]}};
#pragma unroll
          for (int j = 0; j < kTiles; ++j) multiply_step(sums[j][4 * n + i / 2], a, scaled[j]);
        }
      }
    }
  }
};

}  // namespace rocmforge::gpu
