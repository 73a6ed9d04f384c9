// The code books in device memory, and the two of 16 levels as words for look_up_nibbles.
#pragma once

#include "hip/compat.h"

#define RF_TABLE static __device__ constexpr
#include "common/codebooks.h"

namespace rocmforge::gpu {

constexpr ByteTable16 byte_table(const int8_t (&values)[16], int offset) {
  ByteTable16 table{};
  for (int i = 0; i < 16; ++i) {
    const auto byte = static_cast<uint8_t>(values[i] + offset);
    table.words[i / 4] |= static_cast<uint32_t>(byte) << (8 * (i % 4));
  }
  return table;
}

static __device__ constexpr ByteTable16 kIq4Levels = byte_table(kvalues_iq4nl, 0);
constexpr int kE2m1Offset = 12;  // leaves no negative value
static __device__ constexpr ByteTable16 kE2m1 = byte_table(kvalues_e2m1, kE2m1Offset);

}  // namespace rocmforge::gpu
