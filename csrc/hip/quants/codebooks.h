// The code books in device memory, and the two of 16 levels as words for look_up_nibbles.
#pragma once

#include "hip/compat.h"

#define RF_TABLE static __device__ constexpr
#include "common/codebooks.h"

namespace rocmforge::gpu {

constexpr ByteTable16 byte_table(const int8_t (&values)[16]) {
  ByteTable16 table{};
  for (int i = 0; i < 16; ++i) {
    table.words[i / 4] |= static_cast<uint32_t>(static_cast<uint8_t>(values[i])) << (8 * (i % 4));
  }
  return table;
}

static __device__ constexpr ByteTable16 kIq4Levels = byte_table(kvalues_iq4nl);
static __device__ constexpr ByteTable16 kE2m1 = byte_table(kvalues_e2m1);

}  // namespace rocmforge::gpu
