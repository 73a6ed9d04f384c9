// How kernels read a key-value cache: a trait per format.
//
// A row is one head of one token: its values stand one after the other, in blocks where the format
// has them. A trait has
//   kType                 its CacheType
//   Element               what it stores, if it has no blocks
//   kBlock, kBytes        values and bytes of a block (1 and an element's, without blocks)
//   kAlign<N>             what the address of N values must be a multiple of, N = 8 or 16; for
//                         blocks, what the address of the row must be a multiple of
//   value(row, i)         one value; needs the alignment of an element, or of a row of blocks
//   load<N>(row, first, out)   values [first, first + N) as float, first a multiple of N
//   load_pairs<T, N>(row, first, out)   the same as pairs of T = __half or gpu_bfloat16, the first
//                         of a pair in the low half, each rounded once from its value
// Values are those of `dequantize` to the bit.
#pragma once

#include <type_traits>

#include "common/cache_type.h"
#include "hip/float8.h"
#include "hip/mma.h"
#include "hip/quants/traits.h"

namespace rocmforge::gpu {

template <typename T>
__device__ __forceinline__ uint32_t pair_bits(T low, T high) {
  static_assert(sizeof(T) == 2, "a pair has 32 bits");
  return *reinterpret_cast<const uint16_t*>(&low) |
         static_cast<uint32_t>(*reinterpret_cast<const uint16_t*>(&high)) << 16;
}

__device__ __forceinline__ __half2 as_half2(uint32_t bits) {
  return *reinterpret_cast<const __half2*>(&bits);
}
__device__ __forceinline__ uint32_t half2_bits(__half2 pair) {
  return *reinterpret_cast<const uint32_t*>(&pair);
}

// Bytes 0 and 1 (Half = 0) or 2 and 3 of a word as 16-bit numbers.
template <int Half>
__device__ __forceinline__ uint32_t widen_bytes(uint32_t word) {
  const uint32_t two = Half ? word >> 16 : word;
  return (two & 0xff) | (two << 8 & 0xff0000);
}

template <typename T, int N>
__device__ __forceinline__ void round_pairs(const float (&values)[N], uint32_t (&out)[N / 2]) {
#pragma unroll
  for (int i = 0; i < N / 2; ++i) {
    out[i] = pair_bits(from_float<T>(values[2 * i]), from_float<T>(values[2 * i + 1]));
  }
}

// Elements of 16 or 32 bits.
template <typename T, CacheType Type>
struct WideCache {
  using Element = T;
  static constexpr CacheType kType = Type;
  static constexpr int kBlock = 1, kBytes = sizeof(T);
  template <int N>
  static constexpr int kAlign = 16;

  static __device__ __forceinline__ float value(const void* row, int i) {
    return to_float(static_cast<const T*>(row)[i]);
  }

  template <int N>
  static __device__ __forceinline__ void load(const void* row, int first, float (&out)[N]) {
    constexpr int kWords = N * kBytes / 4;
    uint32_t words[kWords];
    load_words<kWords, 16>(static_cast<const uint8_t*>(row) + first * kBytes, words);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        out[i] = __uint_as_float(words[i]);
      } else if constexpr (std::is_same_v<T, __half>) {
        out[i] = i % 2 ? high_half(words[i / 2]) : low_half(words[i / 2]);
      } else {
        out[i] = __uint_as_float(i % 2 ? words[i / 2] & 0xffff0000 : words[i / 2] << 16);
      }
    }
  }

  template <typename Pair, int N>
  static __device__ __forceinline__ void load_pairs(const void* row, int first,
                                                    uint32_t (&out)[N / 2]) {
    if constexpr (std::is_same_v<T, Pair>) {
      load_words<N / 2, 16>(static_cast<const uint8_t*>(row) + first * kBytes, out);
    } else {
      float values[N];
      load<N>(row, first, values);
      round_pairs<Pair, N>(values, out);
    }
  }
};

// Elements of 8 bits, whose values all are float16 numbers.
template <typename T, CacheType Type>
struct Float8Cache {
  using Element = T;
  static constexpr CacheType kType = Type;
  static constexpr int kBlock = 1, kBytes = 1;
  template <int N>
  static constexpr int kAlign = N;

  static __device__ __forceinline__ float value(const void* row, int i) {
    return to_float(static_cast<const T*>(row)[i]);
  }

  template <int N>
  static __device__ __forceinline__ void load(const void* row, int first, float (&out)[N]) {
    uint32_t words[N / 4];
    load_words<N / 4, N>(static_cast<const uint8_t*>(row) + first, words);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out[i] = to_float(T{static_cast<uint8_t>(words[i / 4] >> (8 * (i % 4)))});
    }
  }

  template <typename Pair, int N>
  static __device__ __forceinline__ void load_pairs(const void* row, int first,
                                                    uint32_t (&out)[N / 2]) {
    if constexpr (std::is_same_v<Pair, __half>) {
      uint32_t words[N / 4];
      load_words<N / 4, N>(static_cast<const uint8_t*>(row) + first, words);
#pragma unroll
      for (int i = 0; i < N / 4; ++i) {
        if constexpr (kConvertsE4M3 && std::is_same_v<T, E4M3>) {
          out[2 * i] = e4m3_halves(words[i]);
          out[2 * i + 1] = e4m3_halves(words[i] >> 16);
        } else {
          out[2 * i] = to_half_pair(widen_bytes<0>(words[i]));
          out[2 * i + 1] = to_half_pair(widen_bytes<1>(words[i]));
        }
      }
    } else {
      float values[N];
      load<N>(row, first, values);
      round_pairs<Pair, N>(values, out);
    }
  }

 private:
  static __device__ __forceinline__ uint32_t to_half_pair(uint32_t pair) {
    if constexpr (std::is_same_v<T, E5M2>) {
      return pair << 8;
    } else {
      // As float16 bits the exponent is 2^8 too small, for subnormals too.
      const uint32_t scaled = (pair & 0x007f007f) << 7;
      uint32_t value = half2_bits(__hmul2(as_half2(scaled), as_half2(0x5c005c00)));
      if ((pair & 0x7f) == 0x7f) value |= 0x7e00;
      if ((pair >> 16 & 0x7f) == 0x7f) value |= 0x7e000000;
      return value | (pair & 0x00800080) << 8;
    }
  }
};

// 32 signed bytes behind a float16 scale.
struct Q8_0Cache {
  static constexpr CacheType kType = CacheType::kQ8_0;
  static constexpr int kBlock = 32, kBytes = 34;
  template <int N>
  static constexpr int kAlign = 2;

  static __device__ __forceinline__ float value(const void* row, int i) {
    const uint8_t* block = block_of(row, i);
    return scale(block) * static_cast<float>(static_cast<int8_t>(block[2 + i % kBlock]));
  }

  template <int N>
  static __device__ __forceinline__ void load(const void* row, int first, float (&out)[N]) {
    const uint8_t* block = block_of(row, first);
    uint32_t words[N / 4];
    load_even_words(block + 2 + first % kBlock, words);
    const float d = scale(block);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out[i] = d * static_cast<float>(static_cast<int8_t>(words[i / 4] >> (8 * (i % 4))));
    }
  }

  template <typename T, int N>
  static __device__ __forceinline__ void load_pairs(const void* row, int first,
                                                    uint32_t (&out)[N / 2]) {
    if constexpr (std::is_same_v<T, __half>) {
      const uint8_t* block = block_of(row, first);
      uint32_t words[N / 4];
      load_even_words(block + 2 + first % kBlock, words);
      const uint16_t d = *reinterpret_cast<const uint16_t*>(block);
      const __half2 scales = as_half2(d * 0x10001u), zero = as_half2(0x64806480);  // 1152
#pragma unroll
      for (int i = 0; i < N / 4; ++i) {
        // Beside 1024 a float16's last bit is 1: a code plus 128 is put in place of its last bits.
        const uint32_t codes = words[i] ^ 0x80808080;
        const __half2 low = __hsub2(as_half2(bytes_as_halves<0>(codes)), zero);
        const __half2 high = __hsub2(as_half2(bytes_as_halves<1>(codes)), zero);
        out[2 * i] = half2_bits(__hmul2(low, scales));
        out[2 * i + 1] = half2_bits(__hmul2(high, scales));
      }
    } else {
      float values[N];
      load<N>(row, first, values);
      round_pairs<T, N>(values, out);
    }
  }

 private:
  static __device__ __forceinline__ const uint8_t* block_of(const void* row, int i) {
    return static_cast<const uint8_t*>(row) + i / kBlock * kBytes;
  }
  static __device__ __forceinline__ float scale(const uint8_t* block) {
    return half_bits(*reinterpret_cast<const uint16_t*>(block));
  }
};

// 32 codes of 4 bits behind a float16 scale: 16 bytes with the first 16 codes in their low halves.
struct Q4_0Cache {
  static constexpr CacheType kType = CacheType::kQ4_0;
  static constexpr int kBlock = 32, kBytes = 18;
  template <int N>
  static constexpr int kAlign = 2;

  static __device__ __forceinline__ float value(const void* row, int i) {
    const uint8_t* block = block_of(row, i);
    const int code = block[2 + i % 16] >> shift(i) & 15;
    return scale(block) * static_cast<float>(code - 8);
  }

  template <int N>
  static __device__ __forceinline__ void load(const void* row, int first, float (&out)[N]) {
    const uint8_t* block = block_of(row, first);
    uint32_t words[N / 4];
    load_codes(block, first, words);
    const float d = scale(block);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      const int code = static_cast<int>(words[i / 4] >> (8 * (i % 4)) & 15);
      out[i] = d * static_cast<float>(code - 8);
    }
  }

  template <typename T, int N>
  static __device__ __forceinline__ void load_pairs(const void* row, int first,
                                                    uint32_t (&out)[N / 2]) {
    if constexpr (std::is_same_v<T, __half>) {
      const uint8_t* block = block_of(row, first);
      uint32_t words[N / 4];
      load_codes(block, first, words);
      const uint16_t d = *reinterpret_cast<const uint16_t*>(block);
      const __half2 scales = as_half2(d * 0x10001u), zero = as_half2(0x64086408);  // 1032
#pragma unroll
      for (int i = 0; i < N / 4; ++i) {
        const __half2 low = __hsub2(as_half2(bytes_as_halves<0>(words[i])), zero);
        const __half2 high = __hsub2(as_half2(bytes_as_halves<1>(words[i])), zero);
        out[2 * i] = half2_bits(__hmul2(low, scales));
        out[2 * i + 1] = half2_bits(__hmul2(high, scales));
      }
    } else {
      float values[N];
      load<N>(row, first, values);
      round_pairs<T, N>(values, out);
    }
  }

 private:
  static __device__ __forceinline__ const uint8_t* block_of(const void* row, int i) {
    return static_cast<const uint8_t*>(row) + i / kBlock * kBytes;
  }
  static __device__ __forceinline__ int shift(int i) { return i % kBlock / 16 * 4; }
  static __device__ __forceinline__ float scale(const uint8_t* block) {
    return half_bits(*reinterpret_cast<const uint16_t*>(block));
  }
  // The codes of [first, first + 4 * Words), a byte each.
  template <int Words>
  static __device__ __forceinline__ void load_codes(const uint8_t* block, int first,
                                                    uint32_t (&words)[Words]) {
    load_even_words(block + 2 + first % 16, words);
#pragma unroll
    for (int i = 0; i < Words; ++i) words[i] = words[i] >> shift(first) & 0x0f0f0f0f;
  }
};

using Float32Cache = WideCache<float, CacheType::kFloat32>;
using Float16Cache = WideCache<__half, CacheType::kFloat16>;
using BFloat16Cache = WideCache<gpu_bfloat16, CacheType::kBFloat16>;
using E4M3Cache = Float8Cache<E4M3, CacheType::kE4M3>;
using E5M2Cache = Float8Cache<E5M2, CacheType::kE5M2>;

// Calls body(Format{}) with the format of `type`, if it is one without blocks.
template <typename Body>
void with_plain_cache_format(CacheType type, Body body) {
  switch (type) {
    case CacheType::kFloat32:
      return body(Float32Cache{});
    case CacheType::kFloat16:
      return body(Float16Cache{});
    case CacheType::kBFloat16:
      return body(BFloat16Cache{});
    case CacheType::kE4M3:
      return body(E4M3Cache{});
    case CacheType::kE5M2:
      return body(E5M2Cache{});
    case CacheType::kQ8_0:
    case CacheType::kQ4_0:
      return;
  }
}

// Calls body(Format{}) with the format of `type`.
template <typename Body>
void with_cache_format(CacheType type, Body body) {
  if (type == CacheType::kQ8_0) return body(Q8_0Cache{});
  if (type == CacheType::kQ4_0) return body(Q4_0Cache{});
  with_plain_cache_format(type, body);
}

}  // namespace rocmforge::gpu
