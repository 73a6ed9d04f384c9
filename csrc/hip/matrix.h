// A matrix of blocks as the launchers take it.
#pragma once

#include "hip/launch.h"

namespace rocmforge::gpu {

struct QuantMatrix {
  int qtype;            // GGML type number
  int layout;           // 0: blocks as the file has them, 1: packed
  const uint8_t* data;  // layout 0: at least 2-byte aligned; layout 1: 16-byte aligned
  int64_t rows;
  int64_t cols;       // elements of a row
  int64_t row_bytes;  // from one row to the next (layout 1: the packed size of a row)
};

}  // namespace rocmforge::gpu
