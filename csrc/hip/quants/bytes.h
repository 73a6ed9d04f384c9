// Instructions on bytes and bits that quantization types have in common, each vendor's best:
// compat.h's choices of bytes have to allow for selectors that the types do not have.
#pragma once

#include "hip/compat.h"

namespace rocmforge::gpu {

#if defined(__HIP__)

// Four bytes of the eight of low and high; no selector has more than its three bits.
__device__ __forceinline__ uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t selectors) {
  return __builtin_amdgcn_perm(high, low, selectors);
}

// Four bytes of the eight of low and high, from one of the first four on.
__device__ __forceinline__ uint32_t bytes_from(uint32_t low, uint32_t high, uint32_t first) {
  return __builtin_amdgcn_alignbyte(high, low, first);
}

// Eight bytes by one word of selectors below 8, as select_8_bytes.
__device__ __forceinline__ void pick_8_bytes(uint32_t low, uint32_t high, uint32_t selectors,
                                             uint32_t (&bytes)[2]) {
  select_8_bytes(low, high, selectors, bytes);
}

// What stands `offset` bytes behind the start of a kernel's LDS, to which `start` points. That is
// address 0, since all of it is dynamic; the compiler would add it at every look-up.
template <class Entry>
__device__ __forceinline__ Entry read_lds(const uint8_t*, uint32_t offset) {
  if constexpr (sizeof(Entry) == 4) {
    return *(const __attribute__((address_space(3))) uint32_t*)offset;
  } else {
    using Pair = uint32_t __attribute__((ext_vector_type(2)));
    const Pair pair = *(const __attribute__((address_space(3))) Pair*)offset;
    return {pair.x, pair.y};
  }
}

// factor * (bits & mask) + plus, where nothing is rounded: for an integer below 2^23, of which
// `mask` cuts the bits.
__device__ __forceinline__ float linear_field(uint32_t bits, uint32_t mask, float factor,
                                              float plus) {
  return fmaf(static_cast<float>(bits & mask), factor, plus);
}

// The same for byte kByte of a word.
template <int kByte>
__device__ __forceinline__ float byte_value(uint32_t word, float factor, float plus) {
  return linear_field(word >> (8 * kByte), 255, factor, plus);
}

// Four bits of a word from bit kFrom on, a multiple of 4, as bytes of 0 and kSpreadBit.
constexpr int kSpreadBit = 2;
template <int kFrom>
__device__ __forceinline__ uint32_t spread_bits(uint32_t word) {
  return (word >> kFrom & 15) * (0x00204081 * kSpreadBit) & (0x01010101 * kSpreadBit);
}

// The values of the low and of the high halves of four bytes, among the 16 bytes of tables.level(i)
// for i = 0 to 3.
template <class Tables>
__device__ __forceinline__ void look_up_halves(const Tables& tables, uint32_t bytes, int& low,
                                               int& high) {
  const ByteTable16 table = {{tables.level(0), tables.level(1), tables.level(2), tables.level(3)}};
  low = look_up_nibbles<0>(table, bytes), high = look_up_nibbles<1>(table, bytes);
}

// The same of values below 128.
template <class Tables>
__device__ __forceinline__ void look_up_small_halves(const Tables& tables, uint32_t bytes, int& low,
                                                     int& high) {
  look_up_halves(tables, bytes, low, high);
}

#else

template <class Entry>
__device__ __forceinline__ Entry read_lds(const uint8_t* start, uint32_t offset) {
  return *reinterpret_cast<const Entry*>(start + offset);
}

// Bit 3 of a selector would ask for the sign of its byte; __byte_perm clears it.
__device__ __forceinline__ uint32_t pick_bytes(uint32_t low, uint32_t high, uint32_t selectors) {
  uint32_t bytes;
  asm("prmt.b32 %0, %1, %2, %3;" : "=r"(bytes) : "r"(low), "r"(high), "r"(selectors));
  return bytes;
}

__device__ __forceinline__ uint32_t bytes_from(uint32_t low, uint32_t high, uint32_t first) {
  return pick_bytes(low, high, byte_selector(0) + first * (byte_selector(1) - byte_selector(0)));
}

__device__ __forceinline__ void pick_8_bytes(uint32_t low, uint32_t high, uint32_t selectors,
                                             uint32_t (&bytes)[2]) {
  bytes[0] = pick_bytes(low, high, selectors);
  bytes[1] = pick_bytes(low, high, selectors >> 16);
}

// The bits become those of 2^23 plus the integer: a multiplication instead of a slow conversion.
__device__ __forceinline__ float linear_field(uint32_t bits, uint32_t mask, float factor,
                                              float plus) {
  return fmaf(__uint_as_float((bits & mask) | 0x4b000000), factor, plus - 8388608.0f * factor);
}
template <int kByte>
__device__ __forceinline__ float byte_value(uint32_t word, float factor, float plus) {
  const uint32_t bits = pick_bytes(word, 0x4b000000, 0x7650 + kByte);
  return fmaf(__uint_as_float(bits), factor, plus - 8388608.0f * factor);
}

// Both halves of a byte are spread from where they are, so that bytes alone are shifted.
constexpr int kSpreadBit = 16;
template <int kFrom>
__device__ __forceinline__ uint32_t spread_bits(uint32_t word) {
  constexpr int kHalf = kFrom % 8;
  constexpr uint32_t ways = 0x00204081 << (4 - kHalf);
  return (word >> (kFrom - kHalf) & 15 << kHalf) * ways & 0x10101010;
}

// A selector takes four neighbouring halves: both of two bytes.
__device__ __forceinline__ void part_halves(const uint32_t (&found)[2], int& low, int& high) {
  low = static_cast<int>(pick_bytes(found[0], found[1], 0x6420));
  high = static_cast<int>(pick_bytes(found[0], found[1], 0x7531));
}

template <class Tables>
__device__ __forceinline__ void look_up_halves(const Tables& tables, uint32_t bytes, int& low,
                                               int& high) {
  const uint32_t at = bytes & 0x77777777, choice = 0x32103210 | (bytes & 0x88888888) >> 1;
  uint32_t found[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t first = pick_bytes(tables.level(0), tables.level(1), at >> (16 * i));
    const uint32_t second = pick_bytes(tables.level(2), tables.level(3), at >> (16 * i));
    found[i] = pick_bytes(first, second, choice >> (16 * i));
  }
  part_halves(found, low, high);
}

// Of a selector above 7 comes the sign of a byte, which is zero here.
template <class Tables>
__device__ __forceinline__ void look_up_small_halves(const Tables& tables, uint32_t bytes, int& low,
                                                     int& high) {
  const uint32_t others = bytes ^ 0x88888888;
  uint32_t found[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    found[i] = pick_bytes(tables.level(0), tables.level(1), bytes >> (16 * i)) |
               pick_bytes(tables.level(2), tables.level(3), others >> (16 * i));
  }
  part_halves(found, low, high);
}

#endif

}  // namespace rocmforge::gpu
