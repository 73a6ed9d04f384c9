// Quantizers of a block of 32 values by four neighbouring lanes, 8 values each: the steps of
// rocmforge_torch/ops/reference/quants/simple.py in their order, and so gguf-py's bits.
//
// A quantizer has kType (GGML's number), kBytes (of a block, at an even address) and
//   store(x, lane, block, active)   all lanes of the wave call it; groups that are not active,
//   whose
//                                   lanes share that, write nothing
#pragma once

#include "hip/chunks.h"
#include "hip/convert.h"
#include "hip/launch.h"

namespace rocmforge::gpu {

constexpr int kGroupLanes = 4;
constexpr int kLaneValues = 8;

__device__ __forceinline__ uint16_t to_half_bits(float x) {
  return __half_as_ushort(from_float<__half>(x));
}

__device__ __forceinline__ void store_u16(uint8_t* at, uint16_t bits) {
  *reinterpret_cast<uint16_t*>(at) = bits;
}

// 8 bytes to an even address.
__device__ __forceinline__ void store_even(uint8_t* to, const uint32_t (&words)[2]) {
  if (reinterpret_cast<uintptr_t>(to) & 2) {
    store_u16(to, static_cast<uint16_t>(words[0]));
    *reinterpret_cast<uint32_t*>(to + 2) = words[0] >> 16 | words[1] << 16;
    store_u16(to + 6, static_cast<uint16_t>(words[1] >> 16));
  } else {
    reinterpret_cast<uint32_t*>(to)[0] = words[0];
    reinterpret_cast<uint32_t*>(to)[1] = words[1];
  }
}

__device__ __forceinline__ float inverse_of(float d) { return d == 0.0f ? 0.0f : 1.0f / d; }

// The whole part of x up to `limit`, and 0 where x is no number near such codes.
__device__ __forceinline__ uint32_t truncated(float x, uint32_t limit) {
  const uint32_t code = x >= 0.0f && x < 256.0f ? static_cast<uint32_t>(x) : 0;
  return code < limit ? code : limit;
}

// Folds the group's values in the order of its lanes: better(a, b) says whether b, which stands
// behind a, takes its place.
template <typename Better>
__device__ __forceinline__ float group_best(const float (&x)[kLaneValues], int lane,
                                            Better better) {
  float best = x[0];
#pragma unroll
  for (int i = 1; i < kLaneValues; ++i) best = better(best, x[i]) ? x[i] : best;
#pragma unroll
  for (int mask = 1; mask < kGroupLanes; mask *= 2) {
    const float other = wave_shuffle_xor(best, mask);
    const float before = lane & mask ? other : best, behind = lane & mask ? best : other;
    best = better(before, behind) ? behind : before;
  }
  return best;
}

// The first of largest magnitude, with its sign.
__device__ __forceinline__ float group_largest(const float (&x)[kLaneValues], int lane) {
  return group_best(x, lane, [](float a, float b) { return fabsf(b) > fabsf(a); });
}

// Four codes of 8 bits to a word.
__device__ __forceinline__ void pack_bytes(const uint32_t (&codes)[kLaneValues],
                                           uint32_t (&words)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    words[i] =
        codes[4 * i] | codes[4 * i + 1] << 8 | codes[4 * i + 2] << 16 | codes[4 * i + 3] << 24;
  }
}

// 16 bytes of 4-bit codes: the first 16 in the low halves.
__device__ __forceinline__ void store_nibbles(const uint32_t (&codes)[kLaneValues], int lane,
                                              uint8_t* out, bool active) {
  uint32_t words[2];
  pack_bytes(codes, words);
#pragma unroll
  for (int i = 0; i < 2; ++i) words[i] |= wave_shuffle_xor(words[i], 2) << 4;
  if (active && lane < 2) store_even(out + kLaneValues * lane, words);
}

// 4 bytes with the fifth bits in order, then the others as nibbles.
__device__ __forceinline__ void store_five_bits(uint32_t (&codes)[kLaneValues], int lane,
                                                uint8_t* out, bool active) {
  uint32_t bits = 0;
#pragma unroll
  for (int i = 0; i < kLaneValues; ++i) {
    bits |= codes[i] >> 4 << (kLaneValues * lane + i);
    codes[i] &= 15;
  }
#pragma unroll
  for (int mask = 1; mask < kGroupLanes; mask *= 2) bits |= wave_shuffle_xor(bits, mask);
  if (active && lane < 2) store_u16(out + 2 * lane, static_cast<uint16_t>(bits >> (16 * lane)));
  store_nibbles(codes, lane, out + 4, active);
}

template <int Bits>
__device__ __forceinline__ void store_codes(uint32_t (&codes)[kLaneValues], int lane, uint8_t* out,
                                            bool active) {
  if constexpr (Bits == 5) {
    store_five_bits(codes, lane, out, active);
  } else {
    store_nibbles(codes, lane, out, active);
  }
}

// Codes [0, 2^Bits) under a scale, the largest magnitude at code 0.
template <int Bits>
struct QuantizeAroundZero {
  static constexpr int kBytes = 2 + 4 * Bits;

  static __device__ __forceinline__ void store(const float (&x)[kLaneValues], int lane,
                                               uint8_t* block, bool active) {
    constexpr int kZero = 1 << (Bits - 1);
    const float d = group_largest(x, lane) / -kZero;
    const float inverse = inverse_of(d);
    uint32_t codes[kLaneValues];
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) {
      codes[i] = truncated(add_rn(mul_rn(x[i], inverse), kZero + 0.5f), 2 * kZero - 1);
    }
    if (active && lane == 0) store_u16(block, to_half_bits(d));
    store_codes<Bits>(codes, lane, block + 2, active);
  }
};

// Codes [0, 2^Bits) under a scale, above a minimum.
template <int Bits>
struct QuantizeAboveMinimum {
  static constexpr int kBytes = 4 + 4 * Bits;

  static __device__ __forceinline__ void store(const float (&x)[kLaneValues], int lane,
                                               uint8_t* block, bool active) {
    constexpr int kLast = (1 << Bits) - 1;
    // Of -0 and +0 the last counts.
    const float low = group_best(x, lane, [](float a, float b) { return b <= a; });
    const float high = group_best(x, lane, [](float a, float b) { return b >= a; });
    const float d = add_rn(high, -low) / kLast;
    const float inverse = inverse_of(d);
    uint32_t codes[kLaneValues];
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) {
      codes[i] = truncated(add_rn(mul_rn(add_rn(x[i], -low), inverse), 0.5f), kLast);
    }
    if (active && lane == 0) {
      store_u16(block, to_half_bits(d));
      store_u16(block + 2, to_half_bits(low));
    }
    store_codes<Bits>(codes, lane, block + 4, active);
  }
};

// Signed bytes under a scale, in Q8_1 beside scale times their sum.
template <bool kSum>
struct QuantizeBytes {
  static constexpr int kBytes = kSum ? 36 : 34;

  static __device__ __forceinline__ void store(const float (&x)[kLaneValues], int lane,
                                               uint8_t* block, bool active) {
    const float d = fabsf(group_largest(x, lane)) / 127.0f;
    const float inverse = inverse_of(d);
    uint32_t codes[kLaneValues];
    int sum = 0;
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) {
      const float rounded = roundf(mul_rn(x[i], inverse));
      const int code = fabsf(rounded) <= 127.0f ? static_cast<int>(rounded) : 0;
      codes[i] = static_cast<uint32_t>(code) & 255;
      sum += code;
    }
    if constexpr (kSum) {
#pragma unroll
      for (int mask = 1; mask < kGroupLanes; mask *= 2) sum += wave_shuffle_xor(sum, mask);
    }
    if (!active) return;
    if (lane == 0) {
      store_u16(block, to_half_bits(d));
      if constexpr (kSum) store_u16(block + 2, to_half_bits(mul_rn(static_cast<float>(sum), d)));
    }
    uint32_t words[2];
    pack_bytes(codes, words);
    store_even(block + (kSum ? 4 : 2) + kLaneValues * lane, words);
  }
};

struct QuantizeQ4_0 : QuantizeAroundZero<4> {
  static constexpr int kType = 2;
};
struct QuantizeQ4_1 : QuantizeAboveMinimum<4> {
  static constexpr int kType = 3;
};
struct QuantizeQ5_0 : QuantizeAroundZero<5> {
  static constexpr int kType = 6;
};
struct QuantizeQ5_1 : QuantizeAboveMinimum<5> {
  static constexpr int kType = 7;
};
struct QuantizeQ8_0 : QuantizeBytes<false> {
  static constexpr int kType = 8;
};
struct QuantizeQ8_1 : QuantizeBytes<true> {
  static constexpr int kType = 9;
};

template <typename T>
__device__ __forceinline__ void load_eight(const T* from, bool vectors, float (&out)[kLaneValues]) {
  if (vectors) {
    constexpr int kCount = 16 / static_cast<int>(sizeof(T));
#pragma unroll
    for (int i = 0; i < kLaneValues; i += kCount) {
      const Chunk<T, kCount> chunk = *reinterpret_cast<const Chunk<T, kCount>*>(from + i);
#pragma unroll
      for (int j = 0; j < kCount; ++j) out[i + j] = to_float(chunk.values[j]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < kLaneValues; ++i) out[i] = to_float(from[i]);
  }
}

// Elements [at, at + 8) as float; with `vectors` their address must be a multiple of 16.
__device__ __forceinline__ void load_eight(DType dtype, const void* data, int64_t at, bool vectors,
                                           float (&out)[kLaneValues]) {
  switch (dtype) {
    case DType::kFloat32:
      return load_eight(static_cast<const float*>(data) + at, vectors, out);
    case DType::kFloat16:
      return load_eight(static_cast<const __half*>(data) + at, vectors, out);
    case DType::kBFloat16:
      return load_eight(static_cast<const gpu_bfloat16*>(data) + at, vectors, out);
  }
}

}  // namespace rocmforge::gpu
