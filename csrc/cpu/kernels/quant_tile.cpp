#include "cpu/kernels/quant_tile.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

// Sub: weights per scale. out[i] = products of activation row `row` + i with the panel's rows.
template <int Sub, bool Mins, bool Wide, int Tile>
void product(const Panel& panel, const QuantizedRows& x, int64_t row, f32xW* out) {
  constexpr int kSubs = kChunk / Sub;
  f32xW total[Tile] = {};
  const uint8_t* codes = panel.codes;
  for (int64_t c = 0; c < x.chunks; ++c) {
    const int64_t entry = row * x.chunks + c * Tile;
    const int8_t* x_codes = x.codes + entry * kChunk;
    const int32_t* starts = x.starts + entry * 8;
#pragma GCC unroll 2
    for (int s = 0; s < kSubs; ++s) {
      i32xW dot[Tile];
#pragma GCC unroll 8
      for (int i = 0; i < Tile; ++i) dot[i] = splat<i32xW>(starts[i * 8 + s * 4]);
#pragma GCC unroll 8
      for (int k = 0; k < Sub / 4; ++k, codes += sizeof(u8xW)) {
        const u8xW w = load<u8xW>(codes);
#pragma GCC unroll 8
        for (int i = 0; i < Tile; ++i) {
          const int32_t four = load<int32_t>(x_codes + i * kChunk + s * Sub + k * 4);
          dot[i] = dot4<Wide>(dot[i], w, splat<i32xW>(four));
        }
      }
      const f32xW scale = load<f32xW>(panel.scales + (c * kSubs + s) * kLanes);
#pragma GCC unroll 8
      for (int i = 0; i < Tile; ++i) {
        const f32xW scaled = scale * x.scales[(entry + i) * kSubs + s];
        total[i] = fma(to_float(dot[i]), scaled, total[i]);
      }
      if constexpr (Mins) {
        const f32xW min = load<f32xW>(panel.mins + (c * kSubs + s) * kLanes);
#pragma GCC unroll 8
        for (int i = 0; i < Tile; ++i)
          total[i] = fma(min, splat<f32xW>(x.sums[(entry + i) * kSubs + s]), total[i]);
      }
    }
  }
  for (int i = 0; i < Tile; ++i) out[i] = total[i];
}

template <int Sub, bool Mins, bool Wide>
TileProduct by_tile(int tile) {
  switch (tile) {
    case 1:
      return product<Sub, Mins, Wide, 1>;
    case 2:
      return product<Sub, Mins, Wide, 2>;
    case 4:
      return product<Sub, Mins, Wide, 4>;
    default:
      return product<Sub, Mins, Wide, kMaxTile>;
  }
}

}  // namespace

TileProduct tile_product(const QuantTypeKernels& type, int tile) {
  if (type.wide) return by_tile<32, false, true>(tile);  // no wide type has minima
  if (type.sub_block == 32)
    return type.mins ? by_tile<32, true, false>(tile) : by_tile<32, false, false>(tile);
  return type.mins ? by_tile<16, true, false>(tile) : by_tile<16, false, false>(tile);
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
