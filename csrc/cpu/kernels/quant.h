// Kernels of the quantized ops: dequantize, embedding rows, products.
//
// A kernel runs on one thread over the range that it is given; its results do not depend on how the
// caller cut the ranges. Pointers need no alignment.
#pragma once

#include <cstdint>

#include "cpu/kernels/dtype.h"

namespace rocmforge::cpu {

// Activations share a scale per 32 of a row.
inline constexpr int kChunk = 32;

// Activation rows as signed bytes. The rows stand in tiles; within a tile of T rows that starts at
// row r, everything about chunk c of its row i is entry r * chunks + c * T + i.
struct QuantizedRows {
  int64_t rows;
  int64_t chunks;    // per row
  int8_t* codes;     // 32 an entry
  float* scales;     // 32 / sub_block an entry: the chunk's scale, repeated
  float* sums;       // 32 / sub_block an entry: scale times the sum of the sub-block's codes
  int32_t* starts;   // 8 an entry: what the chunk's integer dot product starts from
  bool lane_starts;  // starts for each lane of `dot`, else for each of the two halves at 0 and 4
};

// One quantization type. weight = scale * (code - offset) + min with 8-bit unsigned codes; the
// offset is taken off by starting an integer dot product from -offset times the sum of the
// activations' codes.
struct QuantTypeKernels {
  const char* name;
  int qtype;
  int block_size;
  int block_bytes;
  int sub_block;     // weights per scale: 16 or 32; 0 for the float types
  int start_offset;  // offset that dot products take off; 0 where codes are used as signed numbers
  bool mins;
  bool wide;  // codes use all 8 bits

  // Dequantizes consecutive blocks to float32, rounded as gguf-py rounds.
  void (*dequantize)(const uint8_t* blocks, int64_t num_blocks, float* out);

  // The rest is null for the float types.
  // Splits consecutive blocks into codes, scales and minima (the latter only if mins).
  void (*unpack)(const uint8_t* blocks, int64_t num_blocks, uint8_t* codes, float* scales,
                 float* mins);
  // Products of `num_rows` weight rows, `stride` bytes apart, with 1 or 2 activation rows in tiles
  // of 1: out[m * out_stride + n].
  void (*dot[2])(const uint8_t* weights, int64_t stride, int64_t num_rows, const QuantizedRows& x,
                 float* out, int64_t out_stride);
};

struct QuantKernels {
  // The type with this GGML number, or null.
  const QuantTypeKernels* (*find)(int qtype);

  // Weight rows in a panel and the most activation rows in a tile of `panel_product`.
  int panel_rows;
  int max_tile;

  void (*to_float)(DType dtype, const void* in, float* out, int64_t count);
  void (*from_float)(DType dtype, const float* in, void* out, int64_t count);

  // Quantizes `tile` rows of floats, `stride` apart, as the tile that starts at row `begin` of out.
  void (*quantize_tile)(const float* x, int64_t stride, int tile, const QuantTypeKernels& type,
                        int64_t begin, const QuantizedRows& out);

  // Bytes of scratch that one panel of rows of `chunks` chunks needs.
  int64_t (*panel_bytes)(const QuantTypeKernels& type, int64_t chunks);
  // Interleaves `num_rows` <= panel_rows weight rows into `panel`.
  void (*pack_panel)(const QuantTypeKernels& type, const uint8_t* weights, int64_t stride,
                     int64_t num_rows, int64_t chunks, void* panel);
  // out[m * out_stride + n] of all of x's rows, in tiles as `next_tile` cuts them.
  void (*panel_product)(const QuantTypeKernels& type, const void* panel, int64_t num_rows,
                        const QuantizedRows& x, float* out, int64_t out_stride);

  // out[m * out_stride + n] = sum over k of x[m * k + ..] * w[n * k + ..]
  void (*float_product)(const float* w, int64_t num_rows, const float* x, int64_t m, int64_t k,
                        float* out, int64_t out_stride);
  // The same, summed in float64: for a handful of results, whose terms may cancel.
  void (*double_product)(const float* w, int64_t num_rows, const float* x, int64_t m, int64_t k,
                         float* out, int64_t out_stride);
  // out[m * out_stride + j] = sum over n < num_rows of g[m * g_stride + n] * weight[n][j], for the
  // weights of `num_blocks` consecutive blocks of every row. Scratch: (8 + m) * their weights.
  void (*transposed_product)(const QuantTypeKernels& type, const uint8_t* weights, int64_t stride,
                             int64_t num_rows, int64_t num_blocks, const float* g, int64_t g_stride,
                             int64_t m, float* scratch, float* out, int64_t out_stride);
};

// Rows of the next tile when `left` rows are left: the largest power of two that fits. Static: the
// linker must not share one instruction set's copy with another.
static inline int next_tile(int64_t left, int max_tile) {
  int tile = max_tile;
  while (tile > left) tile /= 2;
  return tile;
}

}  // namespace rocmforge::cpu
