// Kernels of the quantized ops: dequantize, embedding rows, products.
#pragma once

#include <cstdint>

#include "cpu/kernels/dtype.h"

namespace rocmforge::cpu {

struct QuantKernels {
  // Dequantizes `blocks` consecutive blocks of type `qtype` to float32.
  void (*dequantize)(int qtype, const uint8_t* in, float* out, int64_t blocks);
};

}  // namespace rocmforge::cpu
