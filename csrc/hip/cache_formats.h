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
//   fetch<N>(row, first, raw)  starts to read values [first, first + N), first a multiple of N, to
//                         kRawWords<N> words; so many can be under way before the first is used
//   floats<N>(raw, first, out)     what was fetched as float
//   pairs<T, N>(raw, first, out)   the same as pairs of T = __half or gpu_bfloat16, the first of a
//                         pair in the low half, each rounded once from its value
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

// Fetched and used at once.
template <class Format, int N>
__device__ __forceinline__ void load_floats(const void* row, int first, float (&out)[N]) {
  uint32_t raw[Format::template kRawWords<N>];
  Format::template fetch<N>(row, first, raw);
  Format::template floats<N>(raw, first, out);
}
template <class Format, typename T, int N>
__device__ __forceinline__ void load_pairs(const void* row, int first, uint32_t (&out)[N]) {
  uint32_t raw[Format::template kRawWords<2 * N>];
  Format::template fetch<2 * N>(row, first, raw);
  Format::template pairs<T, 2 * N>(raw, first, out);
}

// Elements of 16 or 32 bits.
template <typename T, CacheType Type>
struct WideCache {
  using Element = T;
  static constexpr CacheType kType = Type;
  static constexpr int kBlock = 1, kBytes = sizeof(T);
  template <int N>
  static constexpr int kAlign = 16;
  template <int N>
  static constexpr int kRawWords = N * kBytes / 4;

  static __device__ __forceinline__ float value(const void* row, int i) {
    return to_float(static_cast<const T*>(row)[i]);
  }

  template <int N>
  static __device__ __forceinline__ void fetch(const void* row, int first, uint32_t* raw) {
    const auto* from = reinterpret_cast<const uint4*>(static_cast<const T*>(row) + first);
#pragma unroll
    for (int i = 0; i < kRawWords<N> / 4; ++i) {
      const uint4 v = from[i];
      raw[4 * i] = v.x, raw[4 * i + 1] = v.y, raw[4 * i + 2] = v.z, raw[4 * i + 3] = v.w;
    }
  }

  template <int N>
  static __device__ __forceinline__ void floats(const uint32_t* raw, int, float (&out)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      if constexpr (std::is_same_v<T, float>) {
        out[i] = __uint_as_float(raw[i]);
      } else if constexpr (std::is_same_v<T, __half>) {
        out[i] = i % 2 ? high_half(raw[i / 2]) : low_half(raw[i / 2]);
      } else {
        out[i] = __uint_as_float(i % 2 ? raw[i / 2] & 0xffff0000 : raw[i / 2] << 16);
      }
    }
  }

  template <typename Pair, int N>
  static __device__ __forceinline__ void pairs(const uint32_t* raw, int first,
                                               uint32_t (&out)[N / 2]) {
    if constexpr (std::is_same_v<T, Pair>) {
#pragma unroll
      for (int i = 0; i < N / 2; ++i) out[i] = raw[i];
    } else {
      float values[N];
      floats<N>(raw, first, values);
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
  template <int N>
  static constexpr int kRawWords = N / 4;

  static __device__ __forceinline__ float value(const void* row, int i) {
    return to_float(static_cast<const T*>(row)[i]);
  }

  template <int N>
  static __device__ __forceinline__ void fetch(const void* row, int first, uint32_t* raw) {
    uint32_t words[N / 4];
    load_words<N / 4, N>(static_cast<const uint8_t*>(row) + first, words);
#pragma unroll
    for (int i = 0; i < N / 4; ++i) raw[i] = words[i];
  }

  template <int N>
  static __device__ __forceinline__ void floats(const uint32_t* raw, int, float (&out)[N]) {
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out[i] = to_float(T{static_cast<uint8_t>(raw[i / 4] >> (8 * (i % 4)))});
    }
  }

  template <typename Pair, int N>
  static __device__ __forceinline__ void pairs(const uint32_t* raw, int first,
                                               uint32_t (&out)[N / 2]) {
    if constexpr (std::is_same_v<Pair, __half>) {
#pragma unroll
      for (int i = 0; i < N / 4; ++i) {
        out[2 * i] = halves<0>(raw[i]);
        out[2 * i + 1] = halves<1>(raw[i]);
      }
    } else {
      float values[N];
      floats<N>(raw, first, values);
      round_pairs<Pair, N>(values, out);
    }
  }

  // Bytes 0 and 1 (Half = 0) or 2 and 3 of a word as float16.
  template <int Half>
  static __device__ __forceinline__ uint32_t halves(uint32_t word) {
    if constexpr (kConvertsE4M3 && std::is_same_v<T, E4M3>) {
      return e4m3_halves<Half>(word);
    } else {
      return to_half_pair(widen_bytes<Half>(word));
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

// 32 signed bytes.
struct Q8_0Codes {
  static constexpr CacheType kType = CacheType::kQ8_0;
  static constexpr int kBytes = 32, kZero = 128;
  static __device__ __forceinline__ int byte_of(int i) { return i % 32; }
  static __device__ __forceinline__ uint32_t codes(uint32_t bytes, int) {
    return bytes ^ 0x80808080;
  }
  static constexpr int kSignedUnit = 1;
  static __device__ __forceinline__ uint32_t signed_codes(uint32_t bytes, int) { return bytes; }
};

// 32 times 4 bits: the first 16 in the low halves of 16 bytes.
struct Q4_0Codes {
  static constexpr CacheType kType = CacheType::kQ4_0;
  static constexpr int kBytes = 16, kZero = 8;
  static __device__ __forceinline__ int byte_of(int i) { return i % 16; }
  static __device__ __forceinline__ uint32_t codes(uint32_t bytes, int first) {
    return bytes >> (first % 32 / 16 * 4) & 0x0f0f0f0f;
  }
  static constexpr int kSignedUnit = 16;
  static __device__ __forceinline__ uint32_t signed_codes(uint32_t bytes, int first) {
    return (bytes << (4 - first % 32 / 16 * 4) & 0xf0f0f0f0) ^ 0x80808080;
  }
};

// 32 codes behind a float16 scale. Codes says which bytes have those of value i, and makes of four
// of them the unsigned codes of values first to first + 3, or signed bytes; a value is
// scale * (code - kZero), which is scale * byte / kSignedUnit.
template <class Codes>
struct BlockCache {
  static constexpr CacheType kType = Codes::kType;
  static constexpr int kBlock = 32, kBytes = 2 + Codes::kBytes;
  template <int N>
  static constexpr int kAlign = 2;
  template <int N>
  static constexpr int kRawWords = EvenWords<N / 4>::kParts + 1;  // the scale comes last

  static __device__ __forceinline__ float value(const void* row, int i) {
    const uint8_t* block = block_of(row, i);
    const uint32_t code = Codes::codes(block[2 + Codes::byte_of(i)], i) & 0xff;
    return half_bits(*reinterpret_cast<const uint16_t*>(block)) * number(code);
  }

  template <int N>
  static __device__ __forceinline__ void fetch(const void* row, int first, uint32_t* raw) {
    const uint8_t* block = block_of(row, first);
    EvenWords<N / 4>::fetch(block + 2 + Codes::byte_of(first), raw);
    raw[kRawWords<N> - 1] = *reinterpret_cast<const uint16_t*>(block);
  }

  template <int N>
  static __device__ __forceinline__ void floats(const uint32_t* raw, int first, float (&out)[N]) {
    uint32_t bytes[N / 4];
    EvenWords<N / 4>::join(raw, bytes);
    const float d = low_half(raw[kRawWords<N> - 1]);
#pragma unroll
    for (int i = 0; i < N; ++i) {
      out[i] = d * number(Codes::codes(bytes[i / 4], first) >> (8 * (i % 4)) & 0xff);
    }
  }

  template <typename T, int N>
  static __device__ __forceinline__ void pairs(const uint32_t* raw, int first,
                                               uint32_t (&out)[N / 2]) {
    if constexpr (std::is_same_v<T, __half>) {
      uint32_t bytes[N / 4];
      EvenWords<N / 4>::join(raw, bytes);
      const uint32_t scales = raw[kRawWords<N> - 1] * 0x10001u;
#pragma unroll
      for (int i = 0; i < N / 4; ++i) {
        const uint32_t codes = Codes::codes(bytes[i], first);
        out[2 * i] = scaled_halves<0>(codes, scales);
        out[2 * i + 1] = scaled_halves<1>(codes, scales);
      }
    } else {
      float values[N];
      floats<N>(raw, first, values);
      round_pairs<T, N>(values, out);
    }
  }

  // Unsigned codes 0 and 1 (Half = 0) or 2 and 3 of a word as float16 values of two scales.
  template <int Half>
  static __device__ __forceinline__ uint32_t scaled_halves(uint32_t codes, uint32_t scales) {
    // Beside 1024 a float16's last bit is 1: a code is put in place of its last bits.
    const __half2 zero = as_half2((0x6400u + Codes::kZero) * 0x10001u);
    const __half2 numbers = __hsub2(as_half2(bytes_as_halves<Half>(codes)), zero);
    return half2_bits(__hmul2(numbers, as_half2(scales)));
  }

 private:
  static __device__ __forceinline__ const uint8_t* block_of(const void* row, int i) {
    return static_cast<const uint8_t*>(row) + i / kBlock * kBytes;
  }
  static __device__ __forceinline__ float number(uint32_t code) {
    return static_cast<float>(static_cast<int>(code) - Codes::kZero);
  }
};

using Float32Cache = WideCache<float, CacheType::kFloat32>;
using Float16Cache = WideCache<__half, CacheType::kFloat16>;
using BFloat16Cache = WideCache<gpu_bfloat16, CacheType::kBFloat16>;
using E4M3Cache = Float8Cache<E4M3, CacheType::kE4M3>;
using E5M2Cache = Float8Cache<E5M2, CacheType::kE5M2>;
using Q8_0Cache = BlockCache<Q8_0Codes>;
using Q4_0Cache = BlockCache<Q4_0Codes>;

// Calls body(Format{}) with the format of `type`. On the host and, being constexpr, on the device.
template <typename Body>
__forceinline__ constexpr void with_cache_format(CacheType type, Body body) {
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
      return body(Q8_0Cache{});
    case CacheType::kQ4_0:
      return body(Q4_0Cache{});
  }
}

// The same for formats without blocks alone.
template <typename Body>
void with_plain_cache_format(CacheType type, Body body) {
  with_cache_format(type, [&](auto format) {
    if constexpr (decltype(format)::kBlock == 1) body(format);
  });
}

}  // namespace rocmforge::gpu
