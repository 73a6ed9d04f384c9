// A panel holds kLanes weight rows: for every 4 weights along a row one register with the 4 codes
// of each row, so that an integer dot instruction meets 4 broadcast activations and no sum ever
// crosses lanes; then for every scale one register of scales, and one of minima.
#include "cpu/kernels/quant_panel.h"

#include "cpu/kernels/quant_tile.h"
#include "cpu/kernels/simd.h"

namespace rocmforge::cpu::ROCMFORGE_ISA {
namespace {

constexpr int kSlab = 256;  // weights of a row unpacked at a time: a whole number of blocks

RF_INLINE void transpose(i32x8* rows) {
#if defined(__AVX2__)
  __m256i a[8], b[8];
  for (int i = 0; i < 8; i += 2) {
    a[i] = _mm256_unpacklo_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
    a[i + 1] = _mm256_unpackhi_epi32((__m256i)rows[i], (__m256i)rows[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    for (int j = 0; j < 2; ++j) {
      b[i + 2 * j] = _mm256_unpacklo_epi64(a[i + j], a[i + j + 2]);
      b[i + 2 * j + 1] = _mm256_unpackhi_epi64(a[i + j], a[i + j + 2]);
    }
  }
  for (int i = 0; i < 4; ++i) {
    rows[i] = (i32x8)_mm256_permute2x128_si256(b[i], b[i + 4], 0x20);
    rows[i + 4] = (i32x8)_mm256_permute2x128_si256(b[i], b[i + 4], 0x31);
  }
#else
  int32_t in[8][8], out[8][8];
  __builtin_memcpy(in, rows, sizeof(in));
  for (int i = 0; i < 8; ++i)
    for (int j = 0; j < 8; ++j) out[i][j] = in[j][i];
  __builtin_memcpy(rows, out, sizeof(out));
#endif
}

}  // namespace

int64_t panel_bytes(const QuantTypeKernels& type, int64_t chunks) {
  return Panel(nullptr, type, chunks).bytes();
}

void pack_panel(const QuantTypeKernels& type, const uint8_t* weights, int64_t stride,
                int64_t num_rows, int64_t chunks, void* memory) {
  const Panel panel(memory, type, chunks);
  const int subs = kChunk / type.sub_block;
  alignas(64) uint8_t codes[kLanes][kSlab];
  alignas(64) float scales[kLanes][kSlab / 16], mins[kLanes][kSlab / 16];
  for (int64_t first = 0; first < chunks; first += kSlab / kChunk) {
    const int64_t left = chunks - first;
    const int count = left < kSlab / kChunk ? static_cast<int>(left) : kSlab / kChunk;
    const int64_t offset = first * kChunk / type.block_size * type.block_bytes;
    for (int r = 0; r < kLanes; ++r) {
      // Lanes without a row repeat the last one; their results are dropped.
      const int64_t row = r < num_rows ? r : num_rows - 1;
      type.unpack(weights + row * stride + offset, count * kChunk / type.block_size, codes[r],
                  scales[r], mins[r]);
    }
    for (int c = 0; c < count; ++c) {
      for (int group = 0; group < kLanes; group += 8) {
        i32x8 dwords[8];
        for (int r = 0; r < 8; ++r) dwords[r] = load<i32x8>(codes[group + r] + c * kChunk);
        transpose(dwords);
        uint8_t* to = panel.codes + ((first + c) * 8 * kLanes + group) * 4;
        for (int k = 0; k < 8; ++k) store(to + k * 4 * kLanes, dwords[k]);
      }
    }
    for (int s = 0; s < count * subs; ++s) {
      for (int r = 0; r < kLanes; ++r) {
        panel.scales[(first * subs + s) * kLanes + r] = scales[r][s];
        if (type.mins) panel.mins[(first * subs + s) * kLanes + r] = mins[r][s];
      }
    }
  }
}

void panel_product(const QuantTypeKernels& type, const void* memory, int64_t num_rows,
                   const QuantizedRows& x, float* out, int64_t out_stride) {
  const Panel panel(const_cast<void*>(memory), type, x.chunks);
  int tile;
  for (int64_t row = 0; row < x.rows; row += tile) {
    tile = next_tile(x.rows - row, kMaxTile);
    f32xW result[kMaxTile];
    tile_product(type, tile)(panel, x, row, result);
    for (int i = 0; i < tile; ++i) {
      float* to = out + (row + i) * out_stride;
      if (num_rows == kLanes) {
        store(to, result[i]);
      } else {
        __builtin_memcpy(to, &result[i], num_rows * sizeof(float));
      }
    }
  }
}

}  // namespace rocmforge::cpu::ROCMFORGE_ISA
