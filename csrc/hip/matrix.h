// A matrix of blocks as the launchers take it.
#pragma once

#include "hip/launch.h"

namespace rocmforge::gpu {

// What the start of every row of blocks in layout 0 must be a multiple of.
constexpr int64_t file_alignment(int64_t block_bytes) {
  return (block_bytes | 16) & -(block_bytes | 16);
}

struct QuantMatrix {
  int qtype;            // GGML type number
  int layout;           // 0: blocks as the file has them, 1: packed
  const uint8_t* data;  // 16-byte aligned in layout 1; see file_alignment for layout 0
  int64_t rows;
  int64_t cols;       // elements of a row
  int64_t row_bytes;  // from one row to the next (layout 1: the packed size of a row)
};

}  // namespace rocmforge::gpu
