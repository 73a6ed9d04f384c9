// Quantizers on the CPU: float32 rows to rows of GGML blocks.
//
// They do the steps of rocmforge_torch/ops/reference/quants in the same order and give the same
// bits, for which they must be compiled without contraction (-ffp-contract=off).
#pragma once

#include <cstdint>

namespace rocmforge::cpu {

struct Quantizer {
  const char* name;
  int qtype;  // GGML type number
  int block_size;
  int block_bytes;
  // Quantizes one block. Any bits in x are safe; NaN and infinity give unspecified codes.
  void (*quantize)(const float* x, uint8_t* out);
};

// Null for a type without a quantizer.
const Quantizer* find_quantizer(int qtype);

// Quantizes contiguous rows of k elements, a multiple of the block size, of a type that has a
// quantizer. On one thread; blocks are independent of each other.
void quantize_rows(int qtype, const float* x, uint8_t* out, int64_t rows, int64_t k);

}  // namespace rocmforge::cpu
