// The inner loop of panel products: a tile of up to kMaxTile activation rows and kLanes weight
// rows, whose sums stay in registers over the whole length of the rows.
#pragma once

#include "cpu/kernels/quant.h"
#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {

// Twice this many sums and a few operands fit the registers (32 with AVX-512, else 16).
inline constexpr int kMaxTile = kLanes == 16 ? 8 : 4;

struct Panel {
  uint8_t* codes;
  float* scales;
  float* mins;
  float* end;

  Panel(void* memory, const QuantTypeKernels& type, int64_t chunks) {
    const int64_t numbers = chunks * (kChunk / type.sub_block) * kLanes;
    codes = static_cast<uint8_t*>(memory);
    scales = reinterpret_cast<float*>(codes + chunks * kChunk * kLanes);
    mins = scales + numbers;
    end = mins + (type.mins ? numbers : 0);
  }

  int64_t bytes() const { return reinterpret_cast<uint8_t*>(end) - codes; }
};

using TileProduct = void (*)(const Panel& panel, const QuantizedRows& x, int64_t row, f32xW* out);

// The function for tiles of `tile` rows: 1, 2, 4 or 8.
TileProduct tile_product(const QuantTypeKernels& type, int tile);

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
